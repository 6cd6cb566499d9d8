//! The rules of the repository, each a module with a pure function over its inputs and a test that breaks it.

mod budgets;
mod door;
mod generated;
mod layers;
mod leaks;
mod licences;
mod purity;
mod sleeps;
mod tools;
mod wildcards;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, bail};

use crate::workspace::Workspace;

/// Something that breaks a rule.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// Where: a path relative to the root, with a line if there is one, or a package.
    pub place: String,
    /// What is wrong and what to do instead.
    pub what: String,
}

impl Finding {
    pub fn new(place: impl Into<String>, what: impl Into<String>) -> Self {
        Self { place: place.into(), what: what.into() }
    }

    pub fn at(path: &str, span: proc_macro2::Span, what: impl Into<String>) -> Self {
        Self::new(format!("{path}:{}", span.start().line), what)
    }
}

struct Rule {
    name: &'static str,
    about: &'static str,
    hold: fn(&Workspace) -> Result<Vec<Finding>>,
}

/// In the order in which they are held: quick ones first.
const RULES: [Rule; 12] = [
    Rule { name: "lock", about: "Cargo.lock fits the manifests", hold: tools::lock },
    Rule { name: "layers", about: "who may import whom", hold: layers::hold },
    Rule { name: "purity", about: "core has no files, environment, clock or threads", hold: purity::hold },
    Rule { name: "budgets", about: "length of main.rs, files and functions", hold: budgets::hold },
    Rule {
        name: "status-door",
        about: "only core::run decides a Run's phase, reason and conditions",
        hold: door::hold,
    },
    Rule { name: "wildcards", about: "no wildcard arms over enums in core", hold: wildcards::hold },
    Rule { name: "sleeps", about: "tests wait for a condition, not for a time", hold: sleeps::hold },
    Rule { name: "licences", about: "licences, bans and sources of deny.toml", hold: licences::hold },
    Rule { name: "leaks", about: "no paths or hosts of one machine in a file", hold: leaks::hold },
    Rule { name: "fmt", about: "rustfmt", hold: tools::fmt },
    Rule {
        name: "generated",
        about: "generated files are up to date (cargo xtask gen)",
        hold: generated::hold,
    },
    Rule { name: "clippy", about: "clippy on everything, warnings are errors", hold: tools::clippy },
];

/// The list of rules, for the help.
pub fn help() -> String {
    let lines = RULES.iter().map(|rule| format!("  {:12} {}\n", rule.name, rule.about));
    format!("Rules:\n{}", lines.collect::<String>())
}

/// Holds the named rules, or all. Goes on after one is broken, so that one run shows everything.
pub fn run(workspace: &Workspace, names: &[String]) -> Result<ExitCode> {
    if let Some(unknown) = names.iter().find(|name| !RULES.iter().any(|rule| rule.name == **name)) {
        bail!("there is no recipe or rule `{unknown}`\n\n{}", help());
    }
    let mut broken = Vec::new();
    let chosen =
        || RULES.iter().filter(|rule| names.is_empty() || names.iter().any(|name| name == rule.name));
    for rule in chosen() {
        let start = Instant::now();
        let mut findings =
            (rule.hold)(workspace).unwrap_or_else(|error| vec![Finding::new("error", format!("{error:#}"))]);
        findings.sort();
        let word = if findings.is_empty() { "held" } else { "BROKEN" };
        println!("{word:7} {:12} {} ({:.1} s)", rule.name, rule.about, start.elapsed().as_secs_f64());
        for finding in &findings {
            println!("        {}: {}", finding.place, finding.what);
        }
        if !findings.is_empty() {
            broken.push(rule.name);
        }
    }
    if broken.is_empty() {
        println!("check: {} rules held", chosen().count());
        return Ok(ExitCode::SUCCESS);
    }
    println!("check: broken: {}; run one again with `cargo xtask RULE`", broken.join(", "));
    Ok(ExitCode::FAILURE)
}

#[cfg(test)]
pub mod testing {
    use crate::workspace::Source;

    /// A source file that was never written.
    pub fn source(path: &str, text: &str) -> Source {
        Source::parse(path.into(), text.into()).unwrap()
    }
}
