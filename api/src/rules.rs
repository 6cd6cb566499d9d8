//! The CEL rules of the CRDs, with messages that name the field.
//!
//! Rules sit on the required `spec` (transition rules on optional fields would
//! never see a removal). Immutability compares meaning, not spelling, so that a
//! client which decodes and re-encodes the whole object is not refused.

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

fn immutable(path: &str, default: &str) -> Rule {
    let (new, old) = (value_or("self", path, default), value_or("oldSelf", path, default));
    rule(&format!(".{path}"), &format!("{path} is immutable"), format!("{new} == {old}"))
}

/// For lists and maps, of which an absent one equals an empty one. Written without an
/// empty literal, whose element type would be unknown to the API server's cost estimate.
fn immutable_collection(path: &str) -> Rule {
    let filled = |subject: &str| format!("({} && size({subject}.{path}) > 0)", has(subject, path));
    let (new, old) = (filled("self"), filled("oldSelf"));
    rule(
        &format!(".{path}"),
        &format!("{path} is immutable"),
        format!("{new} == {old} && (!{new} || self.{path} == oldSelf.{path})"),
    )
}

fn duration_of(subject: &str, path: &str, default: &str) -> String {
    let is_duration = format!("{} && {subject}.{path}.matches('{PATTERN}')", has(subject, path));
    format!("({is_duration} ? duration({subject}.{path}) : duration('{default}'))")
}

fn immutable_duration(path: &str, default: &str) -> Rule {
    let (new, old) = (duration_of("self", path, default), duration_of("oldSelf", path, default));
    // A malformed new value has the schema's message already.
    let malformed = format!("({} && !self.{path}.matches('{PATTERN}'))", has("self", path));
    rule(&format!(".{path}"), &format!("{path} is immutable"), format!("{malformed} || {new} == {old}"))
}

fn positive_duration(path: &str) -> Rule {
    let value = duration_of("self", path, "1s");
    rule(&format!(".{path}"), &format!("{path} must be more than 0s"), format!("{value} > duration('0s')"))
}

/// Compares every quantity with the old one, which four conversions make so dear to API servers before 1.33
/// (see [`not_negative`]) that their budget for one rule allows [`crate::crds::FEW`] of them.
fn quantities_unchanged(path: &str) -> Rule {
    let (has_new, has_old) = (has("self", path), has("oldSelf", path));
    let (new, old) = (format!("self.{path}"), format!("oldSelf.{path}"));
    rule(
        &format!(".{path}"),
        &format!("{path} is immutable"),
        format!(
            "({has_new} ? size({new}) : 0) == ({has_old} ? size({old}) : 0) && \
             (!({has_new}) || {new}.all(k, k in {old} && \
             quantity(string({new}[k])).compareTo(quantity(string({old}[k]))) == 0))"
        ),
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

/// Rules on the Run as a whole.
pub fn run_root() -> Vec<Rule> {
    let terminal = "has(oldSelf.status) && has(oldSelf.status.phase) && \
                    oldSelf.status.phase in ['Succeeded', 'Failed', 'Timeout', 'Cancelled']";
    let same = |field: &str| {
        format!(
            "has(self.status.{field}) == has(oldSelf.status.{field}) && \
             (!has(self.status.{field}) || self.status.{field} == oldSelf.status.{field})"
        )
    };
    let field = |name: &str| {
        rule(
            ".status",
            &format!("status.{name} is final once the Run has ended"),
            format!("!({terminal}) || (has(self.status) && {})", same(name)),
        )
    };
    vec![field("phase"), field("reason"), field("attempt")]
}

/// Rules on `Run.spec`.
pub fn run_spec() -> Vec<Rule> {
    let inline = "(has(self.source) && has(self.source.inline) && self.source.inline != '')";
    let repo = "(has(self.source) && has(self.source.repoURL) && self.source.repoURL != '')";
    let function = "(has(self.mode) && has(self.mode.__function__))";
    let relative = |path: &str| {
        let value = value_or("self", path, "''");
        format!("!{value}.startsWith('/') && !{value}.split('/').exists(s, s == '..')")
    };
    let mut rules = vec![
        unavailable("runtimeRef", "!has(self.runtimeRef)"),
        rule(".source", "source takes inline or repoURL, not both", format!("!({inline} && {repo})")),
        rule(
            ".source.commitSHA",
            "source.commitSHA needs source.repoURL",
            format!("{} == '' || {repo}", value_or("self", "source.commitSHA", "''")),
        ),
        rule(
            ".source.inlinePath",
            "source.inlinePath must be relative, without empty, . or .. segments",
            format!(
                "{p} == '' || !{p}.split('/').exists(s, s in ['', '.', '..'])",
                p = value_or("self", "source.inlinePath", "''")
            ),
        ),
        rule(
            ".source.inlinePath",
            "source.inlinePath goes with mode.function and source.inline, and with nothing else",
            format!("({} != '') == ({function} && {inline})", value_or("self", "source.inlinePath", "''")),
        ),
        rule(
            ".mode",
            "mode takes task or function, not both",
            "!has(self.mode) || !(has(self.mode.task) && has(self.mode.__function__))",
        ),
        rule(
            ".mode.task.entrypoint",
            "mode.task.entrypoint must be relative, without .. segments",
            format!("{inline} || ({})", relative("mode.task.entrypoint")),
        ),
        rule(
            ".env",
            "env[].valueFrom is not available: give a literal value",
            "!has(self.env) || !self.env.exists(e, has(e.valueFrom))",
        ),
        not_negative("resources.requests"),
        not_negative("resources.limits"),
        limit_names("resources.limits"),
        positive_duration("timeout"),
        positive_duration("pendingTimeout"),
        rule(
            ".cancelRequested",
            "cancelRequested cannot be taken back",
            "!(has(oldSelf.cancelRequested) && oldSelf.cancelRequested) || (has(self.cancelRequested) && self.cancelRequested)",
        ),
    ];
    rules.extend(run_immutable());
    rules
}

/// Rule on one entry of `Run.spec.env`; entries are matched by name, so `oldSelf` is the same variable.
pub fn env_value() -> Rule {
    let (new, old) = (value_or("self", "value", "''"), value_or("oldSelf", "value", "''"));
    rule(".value", "env[].value is immutable", format!("{new} == {old}"))
}

fn run_immutable() -> Vec<Rule> {
    let mut rules: Vec<Rule> = [
        ("runtime", "''"),
        ("source.inline", "''"),
        ("source.inlinePath", "''"),
        ("source.repoURL", "''"),
        ("source.commitSHA", "''"),
        ("mode.task.entrypoint", "''"),
        ("mode.function.handler", "''"),
        ("mode.function.idleTimeoutSeconds", "0"),
        ("retryPolicy.maxAttempts", "1"),
        ("retryPolicy.maxInfrastructureRetries", "0"),
        ("workspace.name", "''"),
        ("priority", "0"),
        ("submitter", "''"),
        ("account", "''"),
        ("queue", "''"),
    ]
    .into_iter()
    .map(|(path, default)| immutable(path, default))
    .collect();
    rules.extend(["mode.task.args", "retryPolicy.retryableReasons", "options"].map(immutable_collection));
    rules.push(rule(
        ".mode",
        "mode is immutable",
        "(has(self.mode) && has(self.mode.__function__)) == (has(oldSelf.mode) && has(oldSelf.mode.__function__))",
    ));
    rules.push(rule(
        ".env",
        "env is immutable",
        "(has(self.env) ? size(self.env) : 0) == (has(oldSelf.env) ? size(oldSelf.env) : 0) && \
         (!has(self.env) || self.env.all(e, oldSelf.env.exists(o, o.name == e.name)))",
    ));
    rules.push(rule(
        ".affinity",
        "affinity is immutable",
        "has(self.affinity) == has(oldSelf.affinity) && (!has(self.affinity) || self.affinity == oldSelf.affinity)",
    ));
    rules.push(quantities_unchanged("resources.requests"));
    rules.push(quantities_unchanged("resources.limits"));
    rules.push(immutable_duration("timeout", "0s"));
    rules.push(immutable_duration("pendingTimeout", "0s"));
    rules.push(immutable_duration("retryPolicy.backoff", "0s"));
    rules
}

/// Rules on the Runtime as a whole.
pub fn runtime_root() -> Vec<Rule> {
    let most = bounds::RUNTIME_NAME;
    vec![rule(
        "",
        &format!("metadata.name must be at most {most} characters"),
        format!("size(self.metadata.name) <= {most}"),
    )]
}

/// Rules on `Runtime.spec`.
pub fn runtime_spec() -> Vec<Rule> {
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
