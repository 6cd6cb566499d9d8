//! The CEL rules of the CRDs, with messages that name the field.
//!
//! Immutability compares meaning, not spelling, so that a client which decodes and re-encodes the whole object is not
//! refused.
//!
//! An API server evaluates every rule with every write, those of the status too, and each look at a field costs it what the
//! object with that field has in fields. So a rule sits on the smallest object that it is about. A transition rule on an
//! optional object sees neither its coming nor its going: for that there is one on the `spec` (see [`Group`]).

use serde::Serialize;

use crate::bounds;
use crate::duration::PATTERN;

/// One `x-kubernetes-validations` entry.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Rule {
    /// CEL over `self` and, in a transition rule, `oldSelf`.
    pub rule: String,
    /// What a person reads.
    pub message: String,
    /// Field that the error names, relative to where the rule sits.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub field_path: String,
}

impl Rule {
    /// For a rule on the object `name`, whose message says the whole path.
    fn below(self, name: &str) -> Self {
        Self { message: format!("{name}.{}", self.message), ..self }
    }
}

fn rule(path: &str, message: &str, rule: impl Into<String>) -> Rule {
    Rule { rule: rule.into(), message: message.into(), field_path: path.into() }
}

/// A field path as CEL spells it: words that CEL reserves are escaped
/// (<https://kubernetes.io/docs/reference/using-api/cel/>).
fn cel(path: &str) -> String {
    path.split('.')
        .map(|step| if step == "function" { "__function__" } else { step })
        .collect::<Vec<_>>()
        .join(".")
}

/// `has()` for a whole path: `a.b` is `has(X.a) && has(X.a.b)`.
fn has(subject: &str, path: &str) -> String {
    let path = cel(path);
    let mut prefix = subject.to_owned();
    let steps: Vec<String> = path
        .split('.')
        .map(|step| {
            prefix = format!("{prefix}.{step}");
            format!("has({prefix})")
        })
        .collect();
    steps.join(" && ")
}

/// The value at `path`, or `default` (a CEL literal).
fn value_or(subject: &str, path: &str, default: &str) -> String {
    format!("({} ? {subject}.{} : {default})", has(subject, path), cel(path))
}

/// How a field of the old object and of the new one are compared.
#[derive(Debug, Clone, Copy)]
enum Same {
    /// An absent one is this CEL literal.
    Value(&'static str),
    /// A list or map, of which an absent one equals an empty one.
    Collection,
    /// A map of quantities.
    Quantities,
    /// An absent one is this duration.
    Duration(&'static str),
    /// Being there is all that counts.
    Presence,
}

impl Same {
    fn rule(self, path: &str) -> Rule {
        rule(&format!(".{path}"), &format!("{path} is immutable"), self.exactly(path))
    }

    fn exactly(self, path: &str) -> String {
        match self {
            Self::Collection => {
                let filled = filled("self", path);
                format!("{} && (!{filled} || self.{path} == oldSelf.{path})", self.roughly(path))
            }
            Self::Quantities => quantities_unchanged(path),
            Self::Duration(_) => {
                // A malformed new value has the schema's message already.
                let malformed = format!("({} && !self.{path}.matches('{PATTERN}'))", has("self", path));
                format!("{malformed} || {}", self.roughly(path))
            }
            Self::Value(_) | Self::Presence => self.roughly(path),
        }
    }

    /// Enough where one side is known to be absent.
    fn roughly(self, path: &str) -> String {
        let both = |side: &dyn Fn(&str) -> String| format!("{} == {}", side("self"), side("oldSelf"));
        match self {
            Self::Value(default) => both(&|subject| value_or(subject, path, default)),
            Self::Collection | Self::Quantities => both(&|subject| filled(subject, path)),
            Self::Duration(default) => both(&|subject| duration_of(subject, path, default)),
            Self::Presence => both(&|subject| format!("({})", has(subject, path))),
        }
    }
}

/// Whether a list or map has entries. Written without an empty literal, whose element type would be unknown to the API
/// server's cost estimate.
fn filled(subject: &str, path: &str) -> String {
    format!("({} && size({subject}.{path}) > 0)", has(subject, path))
}

/// An optional object of `Run.spec` whose fields are immutable.
#[derive(Debug)]
struct Group {
    name: &'static str,
    fields: &'static [(&'static str, Same)],
}

impl Group {
    /// On the object: only where it was and is there.
    fn rules(&self) -> Vec<Rule> {
        self.fields.iter().map(|(path, same)| same.rule(path).below(self.name)).collect()
    }

    /// On the spec: where it came or went, it must mean what its absence means.
    fn presence(&self) -> Rule {
        let name = self.name;
        let all: Vec<_> =
            self.fields.iter().map(|(path, same)| same.roughly(&format!("{name}.{path}"))).collect();
        let condition = format!("has(self.{name}) == has(oldSelf.{name}) || ({})", all.join(" && "));
        rule(&format!(".{name}"), &format!("{name} is immutable"), condition)
    }
}

const SOURCE: Group = Group {
    name: "source",
    fields: &[
        ("inline", Same::Value("''")),
        ("inlinePath", Same::Value("''")),
        ("repoURL", Same::Value("''")),
        ("commitSHA", Same::Value("''")),
    ],
};

const MODE: Group = Group {
    name: "mode",
    fields: &[
        ("function", Same::Presence),
        ("task.entrypoint", Same::Value("''")),
        ("task.args", Same::Collection),
        ("function.handler", Same::Value("''")),
        ("function.idleTimeoutSeconds", Same::Value("0")),
    ],
};

const RETRY_POLICY: Group = Group {
    name: "retryPolicy",
    fields: &[
        ("maxAttempts", Same::Value("1")),
        ("maxInfrastructureRetries", Same::Value("0")),
        ("retryableReasons", Same::Collection),
        ("backoff", Same::Duration("0s")),
    ],
};

const RESOURCES: Group =
    Group { name: "resources", fields: &[("requests", Same::Quantities), ("limits", Same::Quantities)] };

const WORKSPACE: Group = Group { name: "workspace", fields: &[("name", Same::Value("''"))] };

/// Fields of the spec itself.
const FIELDS: &[(&str, Same)] = &[
    ("priority", Same::Value("0")),
    ("submitter", Same::Value("''")),
    ("account", Same::Value("''")),
    ("queue", Same::Value("''")),
    ("options", Same::Collection),
    ("timeout", Same::Duration("0s")),
    ("pendingTimeout", Same::Duration("0s")),
];

fn duration_of(subject: &str, path: &str, default: &str) -> String {
    let is_duration = format!("{} && {subject}.{path}.matches('{PATTERN}')", has(subject, path));
    format!("({is_duration} ? duration({subject}.{path}) : duration('{default}'))")
}

fn positive_duration(path: &str) -> Rule {
    let value = duration_of("self", path, "1s");
    rule(&format!(".{path}"), &format!("{path} must be more than 0s"), format!("{value} > duration('0s')"))
}

/// Compares every quantity with the old one, which four conversions make so dear to API servers before 1.33
/// (see [`not_negative`]) that their budget for one rule allows [`crate::crds::FEW`] of them.
fn quantities_unchanged(path: &str) -> String {
    let (has_new, has_old) = (has("self", path), has("oldSelf", path));
    let (new, old) = (format!("self.{path}"), format!("oldSelf.{path}"));
    format!(
        "({has_new} ? size({new}) : 0) == ({has_old} ? size({old}) : 0) && \
         (!({has_new}) || {new}.all(k, k in {old} && \
         quantity(string({new}[k])).compareTo(quantity(string({old}[k]))) == 0))"
    )
}

fn not_negative(path: &str) -> Rule {
    let (present, map) = (has("self", path), format!("self.{path}"));
    rule(
        &format!(".{path}"),
        &format!("{path} must not be negative"),
        // `string()` of an int-or-string counts with the size of a whole request on API servers before
        // 1.33, which do not look at its maxLength; `format` does not.
        format!("!({present}) || {map}.all(k, !'%s'.format([{map}[k]]).startsWith('-'))"),
    )
}

fn limit_names(path: &str) -> Rule {
    rule(
        &format!(".{path}"),
        &format!("{path} takes cpu, memory, pids and ephemeral-storage"),
        format!(
            "!({}) || self.{path}.all(k, k in ['cpu', 'memory', 'pids', 'ephemeral-storage'])",
            has("self", path)
        ),
    )
}

fn unavailable(path: &str, condition: &str) -> Rule {
    rule(&format!(".{path}"), &format!("{path} is not available yet"), condition)
}

/// Where rules sit in the schema, as a JSON pointer.
pub type Placed = (String, Vec<Rule>);

/// Every rule of the Run.
pub fn run() -> Vec<Placed> {
    let at = |name: &str| format!("/properties/spec/properties/{name}");
    let mut placed = vec![
        (String::new(), vec![status_stays()]),
        ("/properties/status".to_owned(), vec![end_stays()]),
        ("/properties/spec".to_owned(), run_spec()),
        (at("runtime"), vec![rule("", "runtime is immutable", "self == oldSelf")]),
        (at("env/items"), vec![env_value()]),
    ];
    for (group, mut rules) in [
        (SOURCE, source()),
        (MODE, mode()),
        (RETRY_POLICY, Vec::new()),
        (RESOURCES, resources()),
        (WORKSPACE, Vec::new()),
    ] {
        rules.extend(group.rules());
        placed.push((at(group.name), rules));
    }
    placed
}

const ENDED: &str = "in ['Succeeded', 'Failed', 'Timeout', 'Cancelled']";

fn status_stays() -> Rule {
    let terminal =
        format!("has(oldSelf.status) && has(oldSelf.status.phase) && oldSelf.status.phase {ENDED}");
    rule(".status", "status is final once the Run has ended", format!("has(self.status) || !({terminal})"))
}

fn end_stays() -> Rule {
    let same = |field: &str| {
        format!(
            "has(self.{field}) == has(oldSelf.{field}) && (!has(self.{field}) || self.{field} == oldSelf.{field})"
        )
    };
    let same = ["phase", "reason", "attempt"].map(same).join(" && ");
    rule(
        ".phase",
        "status is final once the Run has ended: phase, reason and attempt stay",
        format!("!(has(oldSelf.phase) && oldSelf.phase {ENDED}) || ({same})"),
    )
}

fn source() -> Vec<Rule> {
    let repo = "(has(self.repoURL) && self.repoURL != '')";
    vec![
        rule(
            "",
            "source takes inline or repoURL, not both",
            format!("!(has(self.inline) && self.inline != '' && {repo})"),
        ),
        rule(
            ".commitSHA",
            "source.commitSHA needs source.repoURL",
            format!("{} == '' || {repo}", value_or("self", "commitSHA", "''")),
        ),
        rule(
            ".inlinePath",
            "source.inlinePath must be relative, without empty, . or .. segments",
            format!(
                "{p} == '' || !{p}.split('/').exists(s, s in ['', '.', '..'])",
                p = value_or("self", "inlinePath", "''")
            ),
        ),
    ]
}

fn mode() -> Vec<Rule> {
    vec![rule("", "mode takes task or function, not both", "!(has(self.task) && has(self.__function__))")]
}

fn resources() -> Vec<Rule> {
    [not_negative("requests"), not_negative("limits"), limit_names("limits")]
        .map(|rule| rule.below(RESOURCES.name))
        .into()
}

fn run_spec() -> Vec<Rule> {
    let inline = "(has(self.source) && has(self.source.inline) && self.source.inline != '')";
    let function = "(has(self.mode) && has(self.mode.__function__))";
    let relative = |path: &str| {
        let value = value_or("self", path, "''");
        format!("!{value}.startsWith('/') && !{value}.split('/').exists(s, s == '..')")
    };
    let mut rules = vec![
        unavailable("runtimeRef", "!has(self.runtimeRef)"),
        rule(
            ".source.inlinePath",
            "source.inlinePath goes with mode.function and source.inline, and with nothing else",
            format!("({} != '') == ({function} && {inline})", value_or("self", "source.inlinePath", "''")),
        ),
        rule(
            ".mode.task.entrypoint",
            "mode.task.entrypoint must be relative, without .. segments",
            format!("!has(self.mode) || {inline} || ({})", relative("mode.task.entrypoint")),
        ),
        rule(
            ".env",
            "env[].valueFrom is not available: give a literal value",
            "!has(self.env) || !self.env.exists(e, has(e.valueFrom))",
        ),
        positive_duration("timeout"),
        positive_duration("pendingTimeout"),
        rule(
            ".cancelRequested",
            "cancelRequested cannot be taken back",
            "!(has(oldSelf.cancelRequested) && oldSelf.cancelRequested) || (has(self.cancelRequested) && self.cancelRequested)",
        ),
        rule(
            ".env",
            "env is immutable",
            "(has(self.env) ? size(self.env) : 0) == (has(oldSelf.env) ? size(oldSelf.env) : 0) && \
             (!has(self.env) || self.env.all(e, oldSelf.env.exists(o, o.name == e.name)))",
        ),
        rule(
            ".affinity",
            "affinity is immutable",
            "has(self.affinity) == has(oldSelf.affinity) && (!has(self.affinity) || self.affinity == oldSelf.affinity)",
        ),
    ];
    rules.extend(FIELDS.iter().map(|(path, same)| same.rule(path)));
    rules.extend([SOURCE, MODE, RETRY_POLICY, RESOURCES, WORKSPACE].map(|group| group.presence()));
    rules
}

/// Rule on one entry of `Run.spec.env`; entries are matched by name, so `oldSelf` is the same variable.
fn env_value() -> Rule {
    let (new, old) = (value_or("self", "value", "''"), value_or("oldSelf", "value", "''"));
    rule(".value", "env[].value is immutable", format!("{new} == {old}"))
}

/// Every rule of the Runtime.
pub fn runtime() -> Vec<Placed> {
    vec![(String::new(), runtime_root()), ("/properties/spec".to_owned(), runtime_spec())]
}

fn runtime_root() -> Vec<Rule> {
    let most = bounds::RUNTIME_NAME;
    vec![rule(
        "",
        &format!("metadata.name must be at most {most} characters"),
        format!("size(self.metadata.name) <= {most}"),
    )]
}

fn runtime_spec() -> Vec<Rule> {
    let containers = "self.template.spec.containers";
    let mut rules = vec![
        rule(
            ".template.spec.containers",
            "template.spec.containers[0] must be named runtime and have an image",
            format!(
                "{containers}[0].name == 'runtime' && has({containers}[0].image) && {containers}[0].image != ''"
            ),
        ),
        rule(
            ".template.spec.restartPolicy",
            "template.spec.restartPolicy must be Always or absent",
            "!has(self.template.spec.restartPolicy) || self.template.spec.restartPolicy in ['', 'Always']",
        ),
        rule(
            ".template.spec.automountServiceAccountToken",
            "template.spec.automountServiceAccountToken must not be true: the runtime container gets no token",
            "!has(self.template.spec.automountServiceAccountToken) || !self.template.spec.automountServiceAccountToken",
        ),
        not_negative("capacity.resources"),
        unavailable("artifactStore", "!has(self.artifactStore)"),
        unavailable("preload", "!has(self.preload) || size(self.preload) == 0"),
        rule(
            ".resources",
            "resources[].devices goes with the kind Indexed",
            "!has(self.resources) || self.resources.all(r, !has(r.devices) || size(r.devices) == 0 || r.kind == 'Indexed')",
        ),
        rule(
            ".resources",
            "resources[].env must be a variable of its own, not one of KRUNTIME_*",
            "!has(self.resources) || self.resources.all(r, !has(r.env) || \
             (!r.env.startsWith('KRUNTIME_') && self.resources.exists_one(o, has(o.env) && o.env == r.env)))",
        ),
        rule(
            ".resources",
            "resources[].name runs is built in: set capacity.resources.runs",
            "!has(self.resources) || self.resources.all(r, r.name != 'runs')",
        ),
    ];
    for bounds in ["runDefaults", "runMaximums"] {
        rules.push(positive_duration(&format!("{bounds}.timeout")));
        rules.push(not_negative(&format!("{bounds}.requests")));
        rules.push(not_negative(&format!("{bounds}.limits")));
        rules.push(limit_names(&format!("{bounds}.limits")));
    }
    rules
}
