//! What the ladder of a Pod claims, tried from inside its Runs, axis by axis, in Pods of different rights.

use anyhow::{Context, ensure};
use kruntimes_api::Reason;
use kruntimes_api::run::{IsolationAxis, IsolationLevel, Phase, RunStatus};
use kube::api::ListParams;
use serde_json::{Value, json};

use crate::cluster::{BASH_IMAGE, bash_with, container, phase};
use crate::{Case, Cluster};

/// The cases, for places whose Pods have security settings.
pub fn cases() -> Vec<Case> {
    vec![
        Case::new("ladder_of_a_restricted_pod_is_true", restricted),
        Case::new("ladder_of_a_privileged_pod_is_true", privileged),
    ]
}

/// As it is on the local platform.
pub fn local_cases() -> Vec<Case> {
    vec![Case::new("ladder_of_the_local_platform_is_true", |cluster| async move {
        is_true(&cluster, None).await.map(drop)
    })]
}

/// A Pod as it is when its Runtime says nothing.
async fn restricted(cluster: Cluster) -> anyhow::Result<()> {
    let axes = is_true(&cluster, None).await?;
    for (axis, mechanism, level) in [
        ("limits", "policing", IsolationLevel::Soft),
        ("kill", "subreaper", IsolationLevel::Soft),
        ("files", "landlock", IsolationLevel::Soft),
        ("devices", "landlock", IsolationLevel::Hard),
        ("network", "seccomp", IsolationLevel::Soft),
        ("privileges", "seccomp", IsolationLevel::Soft),
    ] {
        let told = of(&axes, axis)?;
        ensure!(told.mechanism == mechanism && told.level == level, "{told:?}");
    }
    Ok(())
}

/// A Pod that may do everything.
async fn privileged(cluster: Cluster) -> anyhow::Result<()> {
    let axes = is_true(&cluster, Some(json!({"runAsUser": 0, "privileged": true}))).await?;
    for (axis, mechanism) in [
        ("limits", "cgroup-v"),
        ("kill", "cgroup-v"),
        ("files", "mount-namespace"),
        ("devices", "landlock"),
        ("network", "namespace"),
        ("privileges", "own-uid"),
    ] {
        let told = of(&axes, axis)?;
        ensure!(told.mechanism.starts_with(mechanism) && told.level == IsolationLevel::Hard, "{told:?}");
    }
    Ok(())
}

fn of<'a>(axes: &'a [IsolationAxis], name: &str) -> anyhow::Result<&'a IsolationAxis> {
    axes.iter().find(|axis| axis.axis == name).with_context(|| format!("no {name}: {axes:?}"))
}

/// Something worth attacking. Its process is found by its name.
const VICTIM: &str = "echo secret > secret; exec -a ladder-victim sleep 600";

/// `try NAME COMMAND..` tells in the outputs whether it got what it wanted.
const TRIES: &str = r#"
try() { if "${@:2}" >/dev/null 2>&1 </dev/null; then echo "$1=got"; else echo "$1=refused"; fi >> "$KRUNTIME_OUTPUTS"; }
named() { for at in /proc/[0-9]*; do tr '\0' ' ' 2>/dev/null < "$at/cmdline" | grep -q "^$1 " && echo "${at#/proc/}"; done; }
victim=$(named ladder-victim | head -n 1)
echo "victim=${victim:-none}" >> "$KRUNTIME_OUTPUTS"
opens() { : < "$1"; }
makes() { mknod node c 1 11 && : < node; }
connects() { exec 3<>"/dev/tcp/$address/9091"; }
traces() { python3 -c 'import ctypes, sys; sys.exit(ctypes.CDLL(None).ptrace(0x4206, int(sys.argv[1]), 0, 0) != 0)' "$1"; }
capable() { ! grep -q '^CapEff:.*0000000000000000$' /proc/self/status; }
try workspace cat "$(dirname "$PWD")/$neighbour/secret"
try environment grep -q SECRET "/proc/$victim/environ"
try memory head -c 1 "/proc/$victim/maps"
try trace traces "$victim"
try signal kill -CONT "$victim"
try device opens /dev/kmsg
try node makes
try network connects
try mount mount -t tmpfs none /mnt
try namespace unshare --user true
try capability capable
(setsid bash -c 'trap "" TERM HUP INT; exec -a ladder-left sleep 600' &)
exit 0
"#;

/// What is left of an ended Run, as another sees it.
const LEFT: &str = r#"
left=$(for at in /proc/[0-9]*; do tr '\0' ' ' 2>/dev/null < "$at/cmdline" | grep '^ladder-left '; done | wc -l)
echo "left=$left" >> "$KRUNTIME_OUTPUTS"
"#;

/// Tries everything in a pool of one Pod and holds the ladder to its word; gives that ladder.
async fn is_true(cluster: &Cluster, security: Option<Value>) -> anyhow::Result<Vec<IsolationAxis>> {
    let mut container = container();
    if let Some(security) = security {
        container["securityContext"] = security;
    }
    let spec = json!({
        "template": {"spec": {"terminationGracePeriodSeconds": 5, "containers": [container]}},
        "isolation": {"network": "None"},
        "capacity": {"resources": {"runs": 4}},
    });
    cluster.pool("bash", BASH_IMAGE, 1, spec).await?;
    let secret = json!({"env": [{"name": "SECRET", "value": "of the environment"}]});
    let victim = cluster.submit("victim", bash_with(VICTIM, secret)).await?;
    cluster.phase("victim", Phase::Running).await?;
    let pods = cluster.pods().list(&ListParams::default().labels("runtime=bash")).await?.items;
    let address = pods.first().and_then(|pod| pod.status.as_ref()?.pod_ip.clone()).context("no address")?;
    let neighbour = victim.metadata.uid.context("no uid")?;
    let env =
        json!({"env": [{"name": "neighbour", "value": neighbour}, {"name": "address", "value": address}]});
    let tried = cluster.run("tries", bash_with(TRIES, env)).await?;
    ensure!(phase(&tried) == Phase::Succeeded, "{tried:?}");
    println!("{:?}", tried.outputs);
    holds(&tried)?;

    let left = cluster.run("left", bash_with(LEFT, json!({}))).await?;
    ensure!(
        left.outputs.get("left").map(String::as_str) == Some("0"),
        "a process outlived its Run: {left:?}"
    );
    let hog = "(head -c 96M /dev/zero; sleep 600) | tail; sleep 600";
    let limits = json!({"resources": {"limits": {"memory": "32Mi"}}});
    let hog = cluster.run("hog", bash_with(hog, limits)).await?;
    ensure!(hog.reason == Some(Reason::OutOfMemory), "{hog:?}");
    let neighbour = cluster.status("victim").await?;
    ensure!(phase(&neighbour) == Phase::Running, "the neighbour was hurt: {neighbour:?}");
    Ok(tried.isolation)
}

/// Whether what was refused is at least what is claimed.
fn holds(tried: &RunStatus) -> anyhow::Result<()> {
    let axes = &tried.isolation;
    ensure!(
        tried.outputs.get("victim").is_some_and(|pid| pid != "none"),
        "who is attacked is seen: {tried:?}"
    );
    let (files, privileges) = (of(axes, "files")?, of(axes, "privileges")?);
    let landlock = ["landlock", "mount-namespace"].contains(&files.mechanism.as_str());
    let ids = privileges.mechanism == "own-uid";
    let filter = privileges.mechanism != "no-new-privs";
    let claims = [
        ("workspace", landlock || ids),
        ("environment", landlock || ids),
        ("memory", landlock || ids),
        ("trace", filter || landlock || ids),
        ("signal", ids || landlock && !files.reason.contains("can be signalled")),
        ("device", of(axes, "devices")?.level == IsolationLevel::Hard),
        ("node", of(axes, "devices")?.level == IsolationLevel::Hard),
        ("network", of(axes, "network")?.level != IsolationLevel::None),
        ("mount", filter),
        ("namespace", filter),
        ("capability", privileges.level != IsolationLevel::None),
    ];
    for (what, claimed) in claims {
        let seen = tried.outputs.get(what).with_context(|| format!("{what} was not tried: {tried:?}"))?;
        ensure!(!claimed || seen == "refused", "{what} is claimed to be refused: {seen}: {tried:?}");
    }
    Ok(())
}
