//! No file of the repository names one machine's paths or hosts: no home folders, no checkout, no package mirror.

use std::collections::BTreeSet;

use anyhow::Result;

use super::Finding;
use crate::workspace::{TextFile, Workspace};

/// Hosts that files may name: they mean the same to everybody. A leading dot stands for every host below.
const HOSTS: &[&str] = &[
    "github.com",
    "kubernetes.io",
    ".k8s.io",
    "docs.rs",
    "pkg.go.dev",
    "doc.rust-lang.org",
    "rust-lang.org",
    "www.rust-lang.org",
    "www.apache.org",
    "man7.org",
    "www.kernel.org",
    "docs.kernel.org",
    "grpc.io",
    "json.schemastore.org",
    "json-schema.org",
    "keepachangelog.com",
    "semver.org",
    "spdx.org",
    "prometheus.io",
    "www.w3.org",
    // Names kept for examples and tests (RFC 2606), and inside a cluster.
    ".example",
    "example.com",
    ".example.com",
    "example.org",
    ".example.org",
    ".invalid",
    ".test",
    ".svc",
    ".local",
];

/// Folders that belong to a person or a machine. Written apart, so that this file does not find itself.
const HOMES: [(&str, &str); 3] = [("/root", "/"), ("/home", "/"), ("/Users", "/")];

/// Variables that say where packages come from here.
const MIRRORS: [&str; 5] = ["GOPROXY", "PIP_INDEX_URL", "NPM_CONFIG_REGISTRY", "HTTPS_PROXY", "https_proxy"];

pub fn hold(workspace: &Workspace) -> Result<Vec<Finding>> {
    let mut own = BTreeSet::from([workspace.root.display().to_string()]);
    // A checkout right below the root folder says nothing about anybody.
    own.retain(|path| path.matches('/').count() > 1);
    own.extend(std::env::var("HOME").ok().filter(|home| home.len() > 1).map(|home| home + "/"));
    for variable in MIRRORS {
        let value = std::env::var(variable).unwrap_or_default();
        own.extend(hosts(&value).map(|(_, host)| host.to_owned()).filter(|host| !is_known(host)));
    }
    Ok(findings(&workspace.texts()?, &own))
}

/// `own`: what this very machine is known by.
pub fn findings(files: &[TextFile], own: &BTreeSet<String>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in files {
        for (number, line) in (1..).zip(file.text.lines()) {
            let place = format!("{}:{number}", file.path);
            for name in own.iter().filter(|name| at_start(line, name).is_some()) {
                findings.push(Finding::new(&place, format!("names this machine ({name})")));
            }
            for (folder, slash) in HOMES {
                if let Some(path) = path_in(line, &format!("{folder}{slash}")) {
                    findings.push(Finding::new(&place, format!("a path of one machine ({path})")));
                }
            }
            for (_, host) in hosts(line).filter(|(_, host)| !is_known(host)) {
                let what = format!("a host that is not in the list of xtask/src/check/leaks.rs ({host})");
                findings.push(Finding::new(&place, what));
            }
        }
    }
    findings
}

/// Where `name` stands in the line; not at the end of something longer, such as `$D/root/`.
fn at_start(line: &str, name: &str) -> Option<usize> {
    line.match_indices(name).map(|(at, _)| at).find(|&at| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || matches!(c, '}' | '.' | '_' | '-' | ')' | '*' | '~'))
    })
}

/// A path that begins with `folder` and goes on.
fn path_in<'a>(line: &'a str, folder: &str) -> Option<&'a str> {
    let path = &line[at_start(line, folder)?..];
    let end = path.find(|c: char| c.is_whitespace() || "\"'`),;<>".contains(c)).unwrap_or(path.len());
    // The one home folder of examples.
    Some(&path[..end]).filter(|path| path.len() > folder.len() && !path[folder.len()..].starts_with("you/"))
}

/// `scheme://host` in a text.
fn hosts(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.match_indices("://").filter_map(|(at, _)| {
        let before = &text[..at];
        let letters =
            before.len() - before.trim_end_matches(|c: char| c.is_ascii_alphanumeric() || c == '+').len();
        let scheme = &before[at - letters..];
        let rest = &text[at + 3..];
        let end =
            rest.find(|c: char| !(c.is_ascii_alphanumeric() || ".-@_".contains(c))).unwrap_or(rest.len());
        let host = rest[..end].rsplit('@').next()?.trim_end_matches('.');
        Some((scheme, host))
    })
}

/// Known to everybody, or no host of the outside: without a dot, loopback, an address, a placeholder.
fn is_known(host: &str) -> bool {
    let is_address = host.split('.').all(|step| step.bytes().all(|byte| byte.is_ascii_digit()));
    !host.contains('.')
        || is_address
        || HOSTS.iter().any(|known| host == *known || known.starts_with('.') && host.ends_with(known))
        || host.contains(".svc.")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn what(line: &str) -> Vec<String> {
        let file = TextFile { path: "docs/a.md".into(), text: line.into() };
        findings(&[file], &BTreeSet::from(["/somewhere/checkout".to_owned()]))
            .into_iter()
            .map(|f| f.what)
            .collect()
    }

    #[test]
    fn a_home_folder_is_found() {
        let home = ["cd /ho", "me/somebody/src"].concat();
        assert_eq!(what(&home).len(), 1);
        assert_eq!(what(&["\"/ro", "ot/.cache\""].concat()).len(), 1);
        assert_eq!(what(&["/ho", "me/you/.cache"].concat()).len(), 0);
        assert_eq!(what("ls $D/root/etc ${HOME}/root/x /root").len(), 0);
    }

    #[test]
    fn this_machine_is_found() {
        assert_eq!(what("see /somewhere/checkout/README.md").len(), 1);
    }

    #[test]
    fn a_host_that_nobody_else_knows_is_found() {
        let mirror = ["https:", "//mirror.corp.net/simple"].concat();
        assert_eq!(what(&mirror).len(), 1);
        let with_user = ["git+https:", "//user@cargo.corp.net"].concat();
        assert_eq!(what(&with_user).len(), 1);
    }

    #[test]
    fn public_and_example_hosts_are_not() {
        for line in [
            "https://github.com/kruntimes",
            "http://127.0.0.1:8080/healthz",
            "https://localhost:6443",
            "https://{host}/x",
            "https://git.example.com/a.git",
            "https://kubernetes.default.svc",
            "unix:///run/kruntimes/server.sock",
        ] {
            assert_eq!(what(line), Vec::<String>::new(), "{line}");
        }
    }
}
