//! Who may import whom: over `cargo metadata`, so that no import can be missed.

use std::collections::BTreeSet;

use anyhow::Result;

use super::Finding;
use crate::workspace::Workspace;

/// Our packages and which of ours each may import, its tests included. A package that is not here is a finding.
/// The order is from the ground up; an entry names only packages above it, so there is no circle.
const LAYERS: &[(&str, &[&str])] = &[
    ("kruntimes-proto", &[]),
    ("kruntimes-api", &[]),
    ("kruntimes-daemon", &[]),
    ("kruntimes-resources", &[]),
    ("kruntimes-traces", &[]),
    ("kruntimes-core", &["kruntimes-api", "kruntimes-resources"]),
    ("server-kit", &["kruntimes-proto", "kruntimes-daemon", "kruntimes-resources", "kruntimes-traces"]),
    ("bash-server", &["server-kit"]),
    ("python-server", &["server-kit"]),
    // Never server-kit: they meet over the wire only.
    (
        "runtimed",
        &[
            "kruntimes-api",
            "kruntimes-core",
            "kruntimes-proto",
            "kruntimes-daemon",
            "kruntimes-resources",
            "kruntimes-traces",
        ],
    ),
    // Never proto: it meets nodes through objects only.
    (
        "control-plane",
        &["kruntimes-api", "kruntimes-core", "kruntimes-daemon", "kruntimes-resources", "kruntimes-traces"],
    ),
    ("kruntimes-local", &["kruntimes-api", "kruntimes-core"]),
    ("krt", &["kruntimes-api", "kruntimes-core", "kruntimes-proto", "kruntimes-local", "kruntimes-traces"]),
    ("xtask", &[]),
    ("kruntimes-gen", &["kruntimes-api", "kruntimes-core", "kruntimes-proto", "krt"]),
    ("kruntimes-node", &[]),
    ("kruntimes-vm", &[]),
    ("kruntimes-bench", &["kruntimes-api", "kruntimes-core", "kruntimes-node"]),
];

/// Packages of the tests: they may import anything, and nothing imports them.
const TESTS: &[&str] = &["kruntimes-tests"];

/// What a package must not link, not even through others: the layer would leak.
const BANNED: &[(&str, &[&str])] = &[
    ("kruntimes-proto", &["kube-client", "kube-core"]),
    ("kruntimes-api", &["kube-client", "tonic", "tokio", "hyper"]),
    ("kruntimes-daemon", &["kube-client", "kube-core", "k8s-openapi", "tonic"]),
    ("kruntimes-resources", &["kube-client", "kube-core", "k8s-openapi", "tonic", "tokio"]),
    ("kruntimes-traces", &["kube-client", "kube-core", "k8s-openapi"]),
    ("kruntimes-core", &["kube-client", "tonic", "tokio", "hyper"]),
    ("server-kit", &["kube-client", "kube-core", "k8s-openapi"]),
    ("bash-server", &["kube-client", "kube-core", "k8s-openapi"]),
    ("python-server", &["kube-client", "kube-core", "k8s-openapi"]),
    // gRPC it links for traces alone.
    ("control-plane", &["kruntimes-proto"]),
];

/// A package of the workspace.
pub struct Member {
    name: String,
    /// Declared dependencies of every kind.
    declared: BTreeSet<String>,
    /// Everything that ends up in the program.
    linked: BTreeSet<String>,
}

pub fn hold(workspace: &Workspace) -> Result<Vec<Finding>> {
    let metadata = workspace.metadata()?;
    let members: Vec<_> = metadata
        .members()
        .map(|package| Member {
            name: package.name.clone(),
            declared: package.dependencies.iter().map(|declared| declared.name.clone()).collect(),
            linked: metadata.linked(package).into_iter().map(str::to_owned).collect(),
        })
        .collect();
    Ok(findings(&members))
}

pub fn findings(members: &[Member]) -> Vec<Finding> {
    let ours: BTreeSet<_> = members.iter().map(|member| member.name.as_str()).collect();
    let mut findings = Vec::new();
    for member in members.iter().filter(|member| !TESTS.contains(&member.name.as_str())) {
        let Some((_, allowed)) = LAYERS.iter().find(|(name, _)| *name == member.name) else {
            let what = "the table in xtask/src/check/layers.rs does not say what it may import";
            findings.push(Finding::new(&member.name, what));
            continue;
        };
        for import in member.declared.iter().filter(|import| ours.contains(import.as_str())) {
            if !allowed.contains(&import.as_str()) && *import != member.name {
                findings.push(Finding::new(&member.name, format!("must not import {import}")));
            }
        }
        for (_, banned) in BANNED.iter().filter(|(name, _)| *name == member.name) {
            for link in banned.iter().filter(|link| member.linked.contains(**link)) {
                findings.push(Finding::new(
                    &member.name,
                    format!("must not link {link}, not even through others"),
                ));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(name: &str, declared: &[&str], linked: &[&str]) -> Member {
        let set = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        Member { name: name.into(), declared: set(declared), linked: set(linked) }
    }

    #[test]
    fn the_allowed_imports_are_held() {
        let members = [
            member("kruntimes-api", &["serde"], &["serde"]),
            member("kruntimes-core", &["kruntimes-api"], &["kruntimes-api", "serde"]),
            member("kruntimes-tests", &["kruntimes-core"], &["kruntimes-core", "tokio"]),
        ];
        assert_eq!(findings(&members), []);
    }

    #[test]
    fn an_import_across_layers_is_found() {
        let members = [member("server-kit", &[], &[]), member("runtimed", &["server-kit"], &["server-kit"])];
        assert_eq!(findings(&members), [Finding::new("runtimed", "must not import server-kit")]);
    }

    #[test]
    fn an_import_of_the_tests_is_found() {
        let members = [member("kruntimes-tests", &[], &[]), member("krt", &["kruntimes-tests"], &[])];
        assert_eq!(findings(&members), [Finding::new("krt", "must not import kruntimes-tests")]);
    }

    #[test]
    fn a_client_that_comes_in_through_another_package_is_found() {
        let members = [member("kruntimes-core", &["helper"], &["helper", "kube-client"])];
        let what = "must not link kube-client, not even through others";
        assert_eq!(findings(&members), [Finding::new("kruntimes-core", what)]);
    }

    #[test]
    fn a_package_without_a_layer_is_found() {
        assert_eq!(findings(&[member("new-package", &[], &[])]).len(), 1);
    }

    #[test]
    fn the_table_goes_from_the_ground_up() {
        for (at, (name, imports)) in LAYERS.iter().enumerate() {
            for import in *imports {
                assert!(
                    LAYERS[..at].iter().any(|(above, _)| above == import),
                    "{name} imports {import} from below"
                );
            }
        }
    }
}
