//! What the ladder of a Pod claims, tried from inside its Runs, axis by axis, in Pods of different rights.

use std::collections::BTreeMap;

use anyhow::{Context, ensure};
use kruntimes_api::Reason;
use kruntimes_api::run::{IsolationAxis, IsolationLevel, Phase, RunStatus};
use kube::api::ListParams;
use serde_json::{Value, json};

use crate::cluster::{BASH_IMAGE, bash_with, container, phase, stdout};
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

/// `try NAME COMMAND..` says whether it got what it wanted, was refused, or could not even try. Outside of a
/// Run, in the same Pod, the same words are the control.
const TRIES: &str = r#"
try() {
    if why=$("${@:2}" 2>&1 >/dev/null </dev/null); then answer=got
    elif grep -qE "$refusals" <<< "$why"; then answer=refused
    else answer="broken: ${why//$'\n'/ }"; fi
    echo "$1=$answer"
}
refusals='ermission denied|not permitted|No such file|unreachable|Connection refused|must be superuser|no capability'
named() { for at in /proc/[0-9]*; do tr '\0' ' ' 2>/dev/null < "$at/cmdline" | grep -q "^$1 " && echo "${at#/proc/}"; done; }
victim=$(named ladder-victim | head -n 1)
where=${where:-$(dirname "$PWD")}
echo "victim=${victim:-none}"
echo "where=$where"
opens() { : < "$device"; }
connects() { exec 3<>"/dev/tcp/$address/9091"; }
traces() { python3 -c '
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
sys.exit(os.strerror(ctypes.get_errno()) if libc.ptrace(0x4206, int(sys.argv[1]), 0, 0) else 0)' "$1"; }
try workspace cat "$where/$neighbour/secret"
try environment grep SECRET "/proc/$victim/environ"
try memory head -c 1 "/proc/$victim/maps"
try trace traces "$victim"
try signal kill -0 "$victim"
try device opens
try network connects
"#;

/// After [`TRIES`], what wants rights that only some containers have.
const RIGHTS: &str = r#"
makes() { mknod ladder-node c 1 11 && : < ladder-node && rm ladder-node; }
mounts() { mount -t tmpfs none /mnt && umount /mnt; }
capable() { ! grep '^CapEff:.*0000000000000000$' /proc/self/status || { echo 'no capability' >&2; false; }; }
try node makes
try mount mounts
try namespace unshare --user true
try capability capable
"#;

/// Leaves a process behind.
const LEAVES: &str = r#"
(setsid bash -c 'trap "" TERM HUP INT; exec -a ladder-left sleep 600' &)
exit 0
"#;

/// What is below `/dev`, not among the plain devices, and open to who is in no Run; nothing where there is no such thing.
const DEVICE: &str = r#"
for device in /dev/termination-log /dev/autofs /dev/userfaultfd; do
    if (: < "$device") 2>/dev/null; then echo "device=$device"; break; fi
done
"#;

/// What is left of an ended Run, as another sees it.
const LEFT: &str = r#"
left=$(for at in /proc/[0-9]*; do tr '\0' ' ' 2>/dev/null < "$at/cmdline" | grep '^ladder-left '; done | wc -l)
echo "left=$left" >> "$KRUNTIME_OUTPUTS"
"#;

/// A script in the Pod, but in no Run: in its container, or on the local platform beside the test.
async fn outside(
    cluster: &Cluster,
    pod: &str,
    env: &[(&str, &str)],
    script: &str,
) -> anyhow::Result<BTreeMap<String, String>> {
    let variables: Vec<String> = env.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let mut command = if cluster.platform.name() == "node" {
        let mut command = cluster.kubectl(&["exec", pod, "-c", "runtime", "--"]).context("no kubectl")?;
        command.arg("env");
        command
    } else {
        std::process::Command::new("env")
    };
    command.args(variables).args(["bash", "-c", script]);
    let said = stdout(command).await?;
    let pairs = said.lines().filter_map(|line| line.split_once('='));
    Ok(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
}

/// Tries everything in a pool of one Pod and holds the ladder to its word; gives that ladder.
async fn is_true(cluster: &Cluster, security: Option<Value>) -> anyhow::Result<Vec<IsolationAxis>> {
    let is_privileged = security.is_some();
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
    let pod = pods.first().context("no Pod")?;
    let address = pod.status.as_ref().and_then(|status| status.pod_ip.clone()).context("no address")?;
    let pod = pod.metadata.name.as_deref().context("no name")?;
    let neighbour = victim.metadata.uid.context("no uid")?;
    let device = outside(cluster, pod, &[], DEVICE).await?.remove("device").unwrap_or_default();
    let mut env = vec![("neighbour", neighbour.as_str()), ("address", &address), ("device", &device)];
    let list: Vec<Value> = env.iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
    let script = ["exec >> \"$KRUNTIME_OUTPUTS\"", TRIES, RIGHTS, LEAVES].concat();
    let tried = cluster.run("tries", bash_with(&script, json!({"env": list}))).await?;
    ensure!(phase(&tried) == Phase::Succeeded, "{tried:?}");
    println!("in a Run: {:?}", tried.outputs);
    env.push(("where", tried.outputs.get("where").context("where")?));
    let rights = if is_privileged { RIGHTS } else { "" };
    let control = outside(cluster, pod, &env, &[TRIES, rights].concat()).await?;
    println!("in no Run: {control:?}");
    gets_through(&control, is_privileged, cluster.platform.name() == "node")?;
    holds(&tried)?;

    let left = cluster.run("left", bash_with(LEFT, json!({}))).await?;
    ensure!(
        left.outputs.get("left").map(String::as_str) == Some("0"),
        "a process outlived its Run: {left:?}"
    );
    breaks_limits(cluster).await?;
    Ok(tried.isolation)
}

/// Who breaks a limit ends by it, alone.
async fn breaks_limits(cluster: &Cluster) -> anyhow::Result<()> {
    for (limit, amount, script, reason) in [
        ("memory", "32Mi", "(head -c 96M /dev/zero; sleep 600) | tail; sleep 600", Reason::OutOfMemory),
        ("pids", "20", "for i in {1..40}; do sleep 600 & done; wait; sleep 600", Reason::PidsExceeded),
        (
            "ephemeral-storage",
            "16Mi",
            "for i in {1..32}; do head -c 1M /dev/zero > part-$i; done; sleep 600",
            Reason::StorageExceeded,
        ),
    ] {
        let limits = json!({"resources": {"limits": {limit: amount}}});
        let ended = cluster.run(&format!("breaks-{limit}"), bash_with(script, limits)).await?;
        ensure!(ended.reason == Some(reason), "{limit}: {ended:?}");
        let neighbour = cluster.status("victim").await?;
        ensure!(phase(&neighbour) == Phase::Running, "{limit}: the neighbour was hurt: {neighbour:?}");
    }
    Ok(())
}

/// Whether what is tried can be had at all, by who is in no Run: what is refused then is refused to Runs.
fn gets_through(
    control: &BTreeMap<String, String>,
    is_privileged: bool,
    is_node: bool,
) -> anyhow::Result<()> {
    let anybody = ["workspace", "environment", "memory", "trace", "signal", "device", "network"];
    let all: &[&str] = if is_privileged { &["node", "mount", "namespace", "capability"] } else { &[] };
    for what in anybody.iter().chain(all) {
        let seen = control.get(*what).with_context(|| format!("{what} was not tried: {control:?}"))?;
        // The kernel may let nobody trace but a parent (Yama), and somebody's own machine may have none of the devices.
        let may_be_refused = *what == "trace" || (*what == "device" && !is_node);
        if may_be_refused && seen == "refused" {
            println!("{what}: refused also in no Run");
            continue;
        }
        ensure!(seen == "got", "{what}, in no Run: {control:?}");
    }
    Ok(())
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
        ensure!(["got", "refused"].contains(&seen.as_str()), "{what}: {seen}");
        ensure!(!claimed || seen == "refused", "{what} is claimed to be refused: {seen}: {tried:?}");
    }
    Ok(())
}
