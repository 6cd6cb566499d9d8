//! Licences, banned packages and sources of everything that is linked, as `deny.toml` says.
//!
//! The same file is read by cargo-deny. It is not used here because building it takes longer than building this
//! project's own programs, and because its list of advisories needs a network that reaches the RustSec database:
//! `cargo deny check advisories` is for those who have both.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};
use serde::Deserialize;

use super::Finding;
use crate::workspace::{Metadata, Workspace};

/// The part of `deny.toml` that is held here.
#[derive(Debug, Deserialize)]
pub struct Policy {
    licenses: Licenses,
    bans: Bans,
}

#[derive(Debug, Deserialize)]
struct Licenses {
    allow: BTreeSet<String>,
    #[serde(default)]
    exceptions: Vec<Exception>,
}

#[derive(Debug, Deserialize)]
struct Exception {
    #[serde(rename = "crate")]
    package: String,
    allow: BTreeSet<String>,
}

#[derive(Debug, Deserialize)]
struct Bans {
    deny: Vec<Ban>,
}

#[derive(Debug, Deserialize)]
struct Ban {
    #[serde(rename = "crate")]
    package: String,
    reason: String,
}

pub fn hold(workspace: &Workspace) -> Result<Vec<Finding>> {
    let policy = toml::from_str(&workspace.read("deny.toml")).context("cannot read deny.toml")?;
    Ok(findings(&workspace.metadata()?, &policy))
}

pub fn findings(metadata: &Metadata, policy: &Policy) -> Vec<Finding> {
    let mut findings = Vec::new();
    for package in
        metadata.packages.iter().filter(|package| !metadata.workspace_members.contains(&package.id))
    {
        let place = format!("{} {}", package.name, package.version);
        let mut allowed = policy.licenses.allow.clone();
        for exception in policy.licenses.exceptions.iter().filter(|e| e.package == package.name) {
            allowed.extend(exception.allow.iter().cloned());
        }
        match &package.license {
            Some(expression) if is_allowed(expression, &allowed) => {}
            Some(expression) => {
                findings
                    .push(Finding::new(&place, format!("licence {expression} is not allowed by deny.toml")));
            }
            None => findings.push(Finding::new(&place, "says no licence")),
        }
        if let Some(ban) = policy.bans.deny.iter().find(|ban| ban.package == package.name) {
            findings.push(Finding::new(&place, format!("banned by deny.toml: {}", ban.reason)));
        }
        if !package.source.as_deref().unwrap_or_default().starts_with("registry+") {
            findings.push(Finding::new(&place, "comes from somewhere else than the registry"));
        }
    }
    findings
}

/// Whether an SPDX expression can be satisfied with the allowed licences. `/` is the old way to write `OR`.
fn is_allowed(expression: &str, allowed: &BTreeSet<String>) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let mut words = spaced.split_whitespace().peekable();
    any_of(&mut words, allowed).unwrap_or(false) && words.next().is_none()
}

type Words<'a> = std::iter::Peekable<std::str::SplitWhitespace<'a>>;

fn any_of(words: &mut Words<'_>, allowed: &BTreeSet<String>) -> Option<bool> {
    let mut holds = all_of(words, allowed)?;
    while words.next_if_eq(&"OR").is_some() {
        holds |= all_of(words, allowed)?;
    }
    Some(holds)
}

fn all_of(words: &mut Words<'_>, allowed: &BTreeSet<String>) -> Option<bool> {
    let mut holds = one(words, allowed)?;
    while words.next_if_eq(&"AND").is_some() {
        holds &= one(words, allowed)?;
    }
    Some(holds)
}

/// None: no expression.
fn one(words: &mut Words<'_>, allowed: &BTreeSet<String>) -> Option<bool> {
    let word = words.next()?;
    if word == "(" {
        let holds = any_of(words, allowed)?;
        return (words.next()? == ")").then_some(holds);
    }
    let name = match words.next_if_eq(&"WITH") {
        Some(_) => format!("{word} WITH {}", words.next()?),
        None => word.to_owned(),
    };
    Some(allowed.contains(&name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> Policy {
        toml::from_str(
            r#"
            [licenses]
            allow = ["MIT", "Apache-2.0", "Apache-2.0 WITH LLVM-exception"]
            exceptions = [{ crate = "tables", allow = ["Unicode-3.0"] }]
            [bans]
            deny = [{ crate = "openssl-sys", reason = "rustls is used" }]
            "#,
        )
        .unwrap()
    }

    fn findings_of(name: &str, license: Option<&str>, source: &str) -> usize {
        let metadata = serde_json::json!({
            "packages": [{"id": "a", "name": name, "version": "1.0.0", "license": license, "source": source}],
            "resolve": null, "workspace_members": [], "target_directory": "",
        });
        findings(&serde_json::from_value(metadata).unwrap(), &policy()).len()
    }

    #[test]
    fn expressions_are_understood() {
        let allowed = policy().licenses.allow;
        for (expression, expected) in [
            ("MIT", true),
            ("GPL-3.0-only", false),
            ("MIT OR GPL-3.0-only", true),
            ("MIT/GPL-3.0-only", true),
            ("MIT AND GPL-3.0-only", false),
            ("GPL-3.0-only OR (MIT AND Apache-2.0)", true),
            ("(GPL-3.0-only OR MIT) AND Zlib", false),
            ("Apache-2.0 WITH LLVM-exception", true),
            ("MIT OR", false),
            ("", false),
        ] {
            assert_eq!(is_allowed(expression, &allowed), expected, "{expression}");
        }
    }

    #[test]
    fn a_licence_a_ban_and_a_source_are_found() {
        assert_eq!(findings_of("good", Some("MIT"), "registry+x"), 0);
        assert_eq!(findings_of("copyleft", Some("AGPL-3.0"), "registry+x"), 1);
        assert_eq!(findings_of("silent", None, "registry+x"), 1);
        assert_eq!(findings_of("openssl-sys", Some("MIT"), "registry+x"), 1);
        assert_eq!(findings_of("forked", Some("MIT"), "git+x"), 1);
        assert_eq!(findings_of("tables", Some("Unicode-3.0"), "registry+x"), 0);
    }
}
