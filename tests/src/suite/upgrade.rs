//! From the previous charts to today's while Runs are under way, and the way back before it.
//!
//! There is no earlier release to take them from yet. The previous charts are made of today's with what a version before would
//! not have: kinds without their newest fields and the rules about them, one policy less, another version in every label, so that
//! the control plane's Pods roll as well.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, ensure};
use kruntimes_api::run::{Phase, RunStatus};
use kruntimes_api::{Run, crds};
use kube::ResourceExt;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::faults::{check, locked, nothing_left};
use crate::cluster::{bash_with, eventually, output, pause, phase};
use crate::node::{RealNode, SYSTEM, Tool, chart};
use crate::{Case, Cluster};

/// Cases that change the platform for all.
pub fn cases_alone(node: &Arc<RealNode>) -> Vec<Case> {
    let node = node.clone();
    vec![Case::new("upgrade_with_runs_in_flight", move |cluster| upgraded(cluster, node.clone()))]
}

/// Fields of `spec` and `status` that the previous kinds do not have.
const NEWEST: [(&str, &[&str], &[&str]); 2] = [
    ("runs.kruntimes.io", &["pendingTimeout", "account"], &["devices"]),
    ("runtimes.kruntimes.io", &["runMaximums"], &[]),
];
const NEWEST_POLICY: &str = "runs-submitter";
const PREVIOUS: &str = "0.0.9";

/// The folder with the previous charts.
fn previous() -> anyhow::Result<TempDir> {
    let folder = tempfile::Builder::new().prefix("krt-charts-").tempdir()?;
    for name in ["kruntimes", "kruntimes-crds"] {
        copy(Path::new(&chart(name)?), &folder.path().join(name))?;
        let file = folder.path().join(name).join("Chart.yaml");
        let text = fs::read_to_string(&file)?;
        let older = |line: &str| match line.split_once("ersion: ") {
            Some((word, _)) if !word.contains("kubeV") && !word.contains("apiV") => {
                format!("{word}ersion: {PREVIOUS}\n")
            }
            _ => format!("{line}\n"),
        };
        fs::write(&file, text.lines().map(older).collect::<String>())?;
    }
    let kinds = folder.path().join("kruntimes-crds");
    fs::remove_file(kinds.join(format!("templates/policies/{NEWEST_POLICY}.yaml")))?;
    for kind in crds::all()? {
        let Some((_, spec, status)) = NEWEST.iter().find(|(name, ..)| *name == kind.name_any()) else {
            continue;
        };
        let mut value = serde_json::to_value(&kind)?;
        let schema = "/spec/versions/0/schema/openAPIV3Schema/properties";
        for (part, fields) in [("spec", spec), ("status", status)] {
            let part = value.pointer_mut(&format!("{schema}/{part}")).context("a kind has a spec")?;
            fields.iter().try_for_each(|field| take_away(part, field))?;
        }
        let file = kinds.join(format!("files/kruntimes.io_{}.yaml", kind.spec.names.plural));
        ensure!(file.is_file(), "no kind lies in {}", file.display());
        // JSON is YAML.
        fs::write(file, serde_json::to_vec_pretty(&value)?)?;
    }
    Ok(folder)
}

/// Takes a field, and the rules that speak of it, from a schema.
fn take_away(schema: &mut Value, field: &str) -> anyhow::Result<()> {
    let known = schema["properties"].as_object_mut().and_then(|fields| fields.remove(field));
    known.with_context(|| format!("today's kind has no field {field}: it is none of the newest"))?;
    if let Some(rules) = schema.get_mut("x-kubernetes-validations").and_then(Value::as_array_mut) {
        rules.retain(|rule| !rule["rule"].as_str().unwrap_or_default().contains(&format!(".{field}")));
    }
    Ok(())
}

/// Copies a folder; links stay links.
fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (to, kind) = (to.join(entry.file_name()), entry.file_type()?);
        if kind.is_symlink() {
            std::os::unix::fs::symlink(fs::read_link(entry.path())?, to)?;
        } else if kind.is_dir() {
            copy(&entry.path(), &to)?;
        } else {
            fs::copy(entry.path(), to)?;
        }
    }
    Ok(())
}

async fn upgraded(cluster: Cluster, node: Arc<RealNode>) -> anyhow::Result<()> {
    let previous = previous()?;
    let old = previous.path().join("kruntimes").to_string_lossy().into_owned();
    let today = chart("kruntimes")?;
    let result = there_and_back(&cluster, &node, &old).await;
    // The others find the platform as it was, whatever has happened.
    let restored = install(&node, &today).run();
    result?;
    restored?;
    nothing_left(&cluster, node.as_ref()).await
}

/// As `docs/upgrade.md` says.
fn install(node: &RealNode, chart: &str) -> Tool {
    node.helm(&["upgrade", "kruntimes", chart, "--namespace", SYSTEM, "--reset-then-reuse-values"])
        .args(["--wait", "--timeout=3m"])
}

/// The command that `krt doctor` prints below what it says of older kinds, for charts in the repository's folder.
fn mended(node: &RealNode, said: &str) -> anyhow::Result<Tool> {
    let below = said.lines().skip_while(|line| !line.contains("lacks")).nth(1);
    let command =
        below.and_then(|line| line.trim().strip_prefix("$ helm ")).with_context(|| said.to_owned())?;
    let words = command.split(' ').map(|word| match word.strip_prefix("charts/") {
        Some(name) => chart(name),
        None => Ok(word.to_owned()),
    });
    let words = words.collect::<anyhow::Result<Vec<String>>>()?;
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    Ok(node.helm(&words).args(["--wait", "--timeout=3m"]))
}

async fn there_and_back(cluster: &Cluster, node: &Arc<RealNode>, old: &str) -> anyhow::Result<()> {
    cluster.sharing_pool(2, 4).await?;
    under_load(cluster, install(node, old), "back").await?;
    let said = doctor(cluster).await?;
    ensure!(said.contains("lacks"), "krt doctor sees that the kinds are older than it is: {said}");
    ensure!(
        said.contains("not enforced: runs-submitter.kruntimes.io"),
        "and that a policy is absent: {said}"
    );
    let before = cluster.submit("before", bash_with("true", json!({"pendingTimeout": "1h"}))).await?;
    ensure!(before.spec.pending_timeout.is_none(), "the previous kinds do not know it: {:?}", before.spec);
    cluster.end("before").await?;

    under_load(cluster, mended(node, &said)?, "forth").await?;
    let said = doctor(cluster).await?;
    ensure!(!said.contains("lacks") && !said.contains("not enforced"), "what it printed mends it: {said}");
    let after = cluster.submit("after", bash_with("true", json!({"pendingTimeout": "1h"}))).await?;
    ensure!(after.spec.pending_timeout.as_deref() == Some("1h"), "today's kinds know it: {:?}", after.spec);
    ensure!(phase(&cluster.end("after").await?) == Phase::Succeeded, "it runs");
    // What was stored before is still a Run that can be read and changed.
    let kept: Run = cluster.patch_spec("before", json!({"ttlSecondsAfterFinished": 3600})).await?;
    ensure!(phase(&kept.status.unwrap_or_default()) == Phase::Succeeded, "it keeps its end");
    eventually("the newest policy to hold", || async {
        let name = format!("lie-{}", jiff::Timestamp::now().as_microsecond());
        let lie = cluster.try_submit(&name, bash_with("true", json!({"submitter": "bob"}))).await;
        Ok(lie.is_err_and(|error| error.to_string().contains("must be your own name")))
    })
    .await
}

/// Installs while Runs run and further ones come: every one ends well in its first attempt.
async fn under_load(cluster: &Cluster, install: Tool, prefix: &str) -> anyhow::Result<()> {
    let long = format!("{prefix}-long");
    cluster.submit(&long, locked(cluster, &long, "20")?).await?;
    cluster.phase(&long, Phase::Running).await?;
    let installing = tokio::task::spawn_blocking(move || install.run());
    let mut names = vec![long];
    while !installing.is_finished() || names.len() < 20 {
        let name = format!("{prefix}-{:03}", names.len());
        cluster.submit(&name, locked(cluster, &name, "1")?).await?;
        names.push(name);
        pause(std::time::Duration::from_millis(250)).await;
    }
    installing.await??;
    for name in &names {
        let status: RunStatus = cluster.end(name).await?;
        check(&status, 1).with_context(|| name.clone())?;
    }
    Ok(())
}

async fn doctor(cluster: &Cluster) -> anyhow::Result<String> {
    Ok(String::from_utf8_lossy(&output(cluster.krt(&["doctor"])).await?.stdout).into_owned())
}
