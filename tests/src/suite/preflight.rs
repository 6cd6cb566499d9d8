//! `krt preflight` where Pods have security settings, rights and a Pod Security level.

use anyhow::{Context, ensure};
use kruntimes_api::run::IsolationLevel;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use super::isolation::{ladder, probes};
use crate::cluster::{BASH_IMAGE, eventually, output, stdout};
use crate::{Case, Cluster};

/// The cases.
pub fn cases() -> Vec<Case> {
    vec![
        Case::new("preflight_profiles_differ", profiles),
        Case::new("preflight_is_refused_with_what_to_do", refusals),
    ]
}

/// More rights give more, and each profile says with what.
async fn profiles(cluster: Cluster) -> anyhow::Result<()> {
    let mut found = Vec::new();
    for profile in ["restricted", "root", "privileged"] {
        let arguments = ["preflight", "--profile", profile, "--image", BASH_IMAGE, "-o", "json"];
        let answer: Value = serde_json::from_str(&stdout(cluster.krt(&arguments)).await?)?;
        println!("{profile}: {answer:#}");
        let axes = ladder(&answer)?;
        let axis = |name: &str| {
            let axis = axes.iter().find(|axis| axis.axis == name);
            axis.map(|axis| (axis.level, axis.mechanism.clone()))
                .with_context(|| format!("no {name}: {axes:?}"))
        };
        found.push((axis("limits")?, axis("privileges")?, axis("network")?));
    }
    let [restricted, root, privileged] = found.try_into().ok().context("three")?;
    ensure!(restricted.0.1 == "policing" && restricted.1.1 == "seccomp", "{restricted:?}");
    ensure!(restricted.2 == (IsolationLevel::Soft, "seccomp".into()), "{restricted:?}");
    ensure!(root.1 == (IsolationLevel::Hard, "own-uid".into()), "{root:?}");
    ensure!(privileged.0.1.starts_with("cgroup-v"), "{privileged:?}");
    ensure!(privileged.2 == (IsolationLevel::Hard, "namespace".into()), "{privileged:?}");
    Ok(())
}

/// Whoever may not, or asks for what the namespace does not admit, learns what would be needed.
async fn refusals(cluster: Cluster) -> anyhow::Result<()> {
    let refused = async |arguments: &[&str], words: &[&str]| -> anyhow::Result<()> {
        let result = output(cluster.krt(arguments)).await?;
        let error = String::from_utf8_lossy(&result.stderr);
        ensure!(result.status.code() == Some(125), "{arguments:?}: {result:?}");
        for word in words {
            ensure!(error.contains(word), "{arguments:?} does not say {word:?}: {error}");
        }
        eventually("no Pod to be left", || async { Ok(probes(&cluster).await? == 0) }).await
    };
    let level = json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}});
    let patch = Patch::Merge(level);
    cluster.namespaces().patch(&cluster.namespace, &PatchParams::default(), &patch).await?;
    let with = ["--image", BASH_IMAGE];
    let words = ["violates PodSecurity", "pod-security.kubernetes.io/enforce=privileged", "-n"];
    refused(&[&["preflight", "--profile", "privileged"][..], &with].concat(), &words).await?;
    // What a Runtime gets that says nothing is admitted by the strictest level.
    stdout(cluster.krt(&[&["preflight"][..], &with].concat())).await?;
    let words = ["cannot create resource \"pods\"", "create, get, watch and delete pods and to get pods/log"];
    refused(&[&["preflight", "--as", "nobody-in-particular"][..], &with].concat(), &words).await?;
    refused(
        &[&["preflight", "--runtime-class", "no-such-class"][..], &with].concat(),
        &["no-such-class", "kubectl get runtimeclasses"],
    )
    .await
}
