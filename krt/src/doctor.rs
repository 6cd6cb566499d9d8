//! `krt doctor`: what is wrong with a platform, and the command that mends it.
//!
//! [`gather`] asks the API, [`judge`] makes findings of the answers, [`report`] prints them. What a person may
//! not see is said to be unknown, never to be well.

pub(crate) mod gather;
pub(crate) mod judge;
mod kinds;
mod parts;
mod runs;
#[cfg(test)]
mod tests;

use jiff::SignedDuration;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kruntimes_api::{Run, Runtime};
use kube::ResourceExt;
use serde::Serialize;

use crate::render::table::{Cell, Table};
use crate::term::{Palette, style};

/// What was asked for, or why it is not known.
pub(crate) type Answer<T> = Result<T, String>;

/// One right that the commands need.
#[derive(Debug, Clone)]
pub(crate) struct Right {
    /// For instance `create`.
    pub verb: &'static str,
    /// For instance `runs`.
    pub resource: &'static str,
    /// Whether this person has it.
    pub allowed: bool,
}

/// A release of Helm, as the objects that belong to it say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Release {
    /// Name.
    pub name: String,
    /// Namespace.
    pub namespace: String,
}

impl Release {
    /// That of an object; `None` when it was made without Helm.
    fn of(object: &impl ResourceExt) -> Option<Self> {
        let word = |word: &str| object.annotations().get(&format!("meta.helm.sh/release-{word}")).cloned();
        Some(Self { name: word("name")?, namespace: word("namespace")? })
    }

    /// The command that brings it to a chart of ours, with its values, but for `set`.
    fn upgrade(&self, chart: &str, set: Option<&str>) -> String {
        let Self { name, namespace } = self;
        let set = set.map(|set| format!(" --set '{set}'")).unwrap_or_default();
        format!(
            "helm upgrade --install {name} charts/{chart} --namespace {namespace} --reset-then-reuse-values{set}"
        )
    }
}

/// Scheduler or controller of one installation.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    /// `scheduler` or `controller`.
    pub component: String,
    /// Namespace of the Deployment and of the Lease.
    pub namespace: String,
    /// Name of both.
    pub name: String,
    /// What it was installed by.
    pub release: Option<Release>,
    /// The one namespace that it looks after; `None`: all.
    pub watches: Option<String>,
    /// As its label says.
    pub version: Option<String>,
    /// Replicas asked for, and ready.
    pub wanted: i32,
    /// Replicas that are ready.
    pub ready: i32,
    /// It works only while it holds the Lease.
    pub elects: bool,
    /// Holder of the Lease and the time since it was renewed.
    pub lease: Answer<Option<(String, SignedDuration)>>,
}

/// Everything that findings are made of.
#[derive(Debug)]
pub(crate) struct Facts {
    /// Version of this program.
    pub ours: &'static str,
    /// The namespace that is looked at; `None`: all.
    pub namespace: Option<String>,
    /// The platform of this machine.
    pub local: bool,
    /// Address of the API.
    pub address: String,
    /// Name of this person.
    pub user: Option<String>,
    /// Version of the API server.
    pub server: Answer<String>,
    /// By how much the server's clock is ahead of ours.
    pub skew: Option<SignedDuration>,
    /// The kinds as the server has them.
    pub kinds: Answer<Vec<CustomResourceDefinition>>,
    /// Names of the admission policies that refuse what they forbid.
    pub policies: Answer<Vec<String>>,
    /// What this person may do.
    pub rights: Vec<Right>,
    /// The control plane.
    pub parts: Answer<Vec<Part>>,
    /// Runtimes.
    pub runtimes: Answer<Vec<Runtime>>,
    /// Pods of Runtimes.
    pub pods: Answer<Vec<Pod>>,
    /// Runs that have not ended.
    pub runs: Answer<Vec<Run>>,
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    /// Well.
    Ok,
    /// This person may not see it.
    Unknown,
    /// Works, but not as it should.
    Warning,
    /// Does not work.
    Error,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    /// What was looked at, in a word or two.
    pub check: &'static str,
    /// How it is.
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// The command that mends it, or that shows more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Ok, found: found.into(), fix: None }
    }

    fn unknown(check: &'static str, why: &str) -> Self {
        Self { check, verdict: Verdict::Unknown, found: why.to_owned(), fix: None }
    }

    fn warning(check: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Warning, found: found.into(), fix: Some(fix.into()) }
    }

    fn error(check: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Error, found: found.into(), fix: Some(fix.into()) }
    }
}

/// The findings as a table, each with its command below it.
pub(crate) fn report(findings: &[Finding], palette: Palette) -> String {
    let mut table = Table::new(&["CHECK", "", "FOUND"]);
    for finding in findings {
        let (word, style) = match finding.verdict {
            Verdict::Ok => ("ok", style::GOOD),
            Verdict::Unknown => ("unknown", style::DIM),
            Verdict::Warning => ("warning", style::WARN),
            Verdict::Error => ("ERROR", style::BAD),
        };
        table.push(vec![finding.check.into(), Cell::styled(word, style), finding.found.clone().into()]);
        if let Some(fix) = &finding.fix {
            table.push(vec!["".into(), "".into(), Cell::styled(format!("  $ {fix}"), style::HEAD)]);
        }
    }
    let mut text = table.render(palette);
    let count = |verdict| findings.iter().filter(|finding| finding.verdict == verdict).count();
    let (errors, warnings) = (count(Verdict::Error), count(Verdict::Warning));
    let unknown = count(Verdict::Unknown);
    let mut parts = Vec::new();
    if errors > 0 {
        parts.push(format!("{errors} that keep it from working"));
    }
    if warnings > 0 {
        parts.push(format!("{warnings} to look at"));
    }
    if unknown > 0 {
        parts.push(format!("{unknown} that you may not see"));
    }
    let summary = if parts.is_empty() { "all is well".to_owned() } else { parts.join(", ") };
    text.push_str(&format!("\n{} findings: {summary}\n", findings.len()));
    text
}
