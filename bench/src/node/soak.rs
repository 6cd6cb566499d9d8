//! A steady rate for a long time on the node: what grows with time alone is a leak.
//!
//! Runs come at an even pace, write a file, print, and are deleted by their TTL soon after their end. What every part holds
//! (memory, file descriptors, processes) is read all the while; the second quarter of the time is compared with the last.
//! Afterwards no Run, no workspace and no process of a Run may be left.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kruntimes_api::Run;
use kruntimes_api::run::{Phase, RunSpec, Source};
use kube::api::{ListParams, PostParams};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, ResourceExt as _};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::Cluster;
use crate::figures::{Figures, percentiles};
use crate::measure::{MIB, Place as _, write_down};
use crate::platform::RUNTIME;
use crate::processes::{self, Held};

/// What each Run does: a file, a line, some time.
const SCRIPT: &str = "head -c 65536 /dev/zero > file; echo soak; sleep 0.2";
/// Ended Runs stay this long, seconds.
const TTL: i32 = 30;
const BETWEEN_SAMPLES: Duration = Duration::from_secs(10);
/// For the last Runs to end and be deleted.
const PATIENCE: Duration = Duration::from_secs(180);
/// Parts that may hold no more at the end than before: ours. The API server keeps its own history for minutes.
const OURS: [&str; 4] = ["scheduler", "controller", "runtimed", "bash_server"];
/// What an allocator and buffers may still grow by, MiB.
const MEMORY_SLACK: f64 = 5.0;
/// Descriptors that are open by chance at the moment of a look: those of Runs that are under way.
const DESCRIPTOR_SLACK: f64 = 10.0;

/// Ends with an error, after the figures were shown, when something grew, was left, or failed.
pub async fn run(cluster: Cluster, minutes: u32, rate: u32, json: Option<&Path>) -> Result<()> {
    let client = cluster.client().await?;
    let seen = Arc::new(Mutex::new(Seen::default()));
    let mut tasks = JoinSet::new();
    tasks.spawn(watch(Api::namespaced(client.clone(), "default"), Arc::clone(&seen)));
    eprintln!("{rate} Runs/s for {minutes} min");
    let length = Duration::from_secs(u64::from(minutes) * 60);
    let samples = load(&cluster, &client, &seen, length, rate).await?;
    eprintln!("waiting for the last Runs to end and be deleted");
    let left = settle(&cluster, &client, &seen).await?;
    let after = processes::held(&cluster.processes()?);

    let mut figures = Figures::default();
    figures.set("soak_minutes", f64::from(minutes));
    let seen = lock(&seen);
    figures.set("soak_runs", seen.submitted as f64);
    figures.set("soak_runs_not_succeeded", seen.bad.len() as f64);
    figures.set_percentiles("soak_terminal", percentiles(seen.took_ms.iter().copied()));
    let mut grown = compare(&samples, &after, &mut figures);
    figures.set("soak_workspaces_left", left.workspaces as f64);
    figures.set("soak_runs_left", left.runs as f64);
    figures.set("soak_container_restarts", left.restarts.len() as f64);
    cluster.stop()?;
    write_down(&figures, &format!("cargo xtask bench node --soak {minutes} --rate {rate}"), json)?;
    let what = [("Runs", left.runs), ("workspaces", left.workspaces)];
    grown.extend(what.iter().filter(|(_, count)| *count > 0).map(|(name, count)| format!("{count} {name}")));
    grown.extend(left.restarts);
    grown.extend(seen.bad.first().map(|bad| format!("{} Runs did not succeed, first {bad}", seen.bad.len())));
    ensure!(grown.is_empty(), "the soak was not clean: {}", grown.join("; "));
    Ok(())
}

/// What the watch has shown.
#[derive(Default)]
struct Seen {
    submitted: usize,
    under_way: HashMap<String, Instant>,
    took_ms: Vec<f64>,
    bad: Vec<String>,
    in_api: HashSet<String>,
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn watch(api: Api<Run>, seen: Arc<Mutex<Seen>>) {
    let mut events = watcher(api, watcher::Config::default()).default_backoff().boxed();
    while let Some(event) = events.next().await {
        match event {
            Ok(watcher::Event::Apply(run) | watcher::Event::InitApply(run)) => {
                let (name, mut seen) = (run.name_any(), lock(&seen));
                seen.in_api.insert(name.clone());
                let phase = run.status.as_ref().and_then(|status| status.phase).unwrap_or_default();
                if !phase.is_terminal() {
                    continue;
                }
                if let Some(start) = seen.under_way.remove(&name) {
                    seen.took_ms.push(start.elapsed().as_secs_f64() * 1e3);
                    if phase != Phase::Succeeded {
                        let message = run.status.and_then(|status| status.message).unwrap_or_default();
                        seen.bad.push(format!("{name} {phase}: {message}"));
                    }
                }
            }
            Ok(watcher::Event::Delete(run)) => {
                lock(&seen).in_api.remove(&run.name_any());
            }
            // A new list follows, which says anew what is there.
            Ok(watcher::Event::Init) => lock(&seen).in_api.clear(),
            Ok(watcher::Event::InitDone) | Err(_) => {}
        }
    }
}

/// Submits at an even pace and looks at the processes now and then.
async fn load(
    cluster: &Cluster,
    client: &Client,
    seen: &Arc<Mutex<Seen>>,
    length: Duration,
    rate: u32,
) -> Result<Vec<BTreeMap<String, Held>>> {
    let api: Api<Run> = Api::namespaced(client.clone(), "default");
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / rate);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let (start, mut sampled, mut samples) = (Instant::now(), Instant::now(), Vec::new());
    let mut creates: JoinSet<Result<()>> = JoinSet::new();
    for number in 0.. {
        if start.elapsed() >= length {
            break;
        }
        ticks.tick().await;
        let (api, name) = (api.clone(), format!("soak-{number}"));
        {
            let mut seen = lock(seen);
            seen.submitted += 1;
            seen.under_way.insert(name.clone(), Instant::now());
        }
        creates.spawn(async move {
            api.create(&PostParams::default(), &soaking(&name)).await.with_context(|| name)?;
            Ok(())
        });
        while let Some(created) = creates.try_join_next() {
            created??;
        }
        if sampled.elapsed() >= BETWEEN_SAMPLES {
            sampled = Instant::now();
            samples.push(processes::held(&cluster.processes()?));
        }
    }
    while let Some(created) = creates.join_next().await {
        created??;
    }
    Ok(samples)
}

fn soaking(name: &str) -> Run {
    let source = Source { inline: Some(SCRIPT.to_owned()), ..Source::default() };
    let spec = RunSpec {
        runtime: RUNTIME.to_owned(),
        source: Some(source),
        ttl_seconds_after_finished: Some(TTL),
        ..RunSpec::default()
    };
    Run::new(name, spec)
}

struct Left {
    runs: usize,
    workspaces: usize,
    /// Each container that was restarted: how often, and how it ended last.
    restarts: Vec<String>,
}

/// Waits until every Run has ended and is deleted; says what is there when the patience ends.
async fn settle(cluster: &Cluster, client: &Client, seen: &Mutex<Seen>) -> Result<Left> {
    let start = Instant::now();
    loop {
        let (under_way, runs) = {
            let seen = lock(seen);
            (seen.under_way.len(), seen.in_api.len())
        };
        let pods: Api<Pod> = Api::namespaced(client.clone(), "default");
        let mut left = Left { runs, workspaces: 0, restarts: Vec::new() };
        for pod in pods.list(&ListParams::default().labels(&format!("runtime={RUNTIME}"))).await? {
            left.workspaces += workspaces(cluster, &pod)?;
            let containers = pod.status.into_iter().flat_map(|status| status.container_statuses);
            left.restarts.extend(containers.flatten().filter_map(restarts));
        }
        if runs == 0 && under_way == 0 && left.workspaces == 0 {
            return Ok(left);
        }
        if start.elapsed() > PATIENCE {
            if under_way > 0 {
                bail!("{under_way} Runs have not ended {PATIENCE:?} after the last was submitted");
            }
            return Ok(left);
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// Of a container that was restarted: its name, how often, and how it ended last.
fn restarts(container: ContainerStatus) -> Option<String> {
    let ended = container.last_state.and_then(|state| state.terminated).unwrap_or_default();
    let how = [ended.reason, ended.message].into_iter().flatten().collect::<Vec<_>>().join(": ");
    let (name, count) = (container.name, container.restart_count);
    (count > 0).then(|| format!("{name} was restarted {count} times ({how}, code {})", ended.exit_code))
}

/// Folders that are called by a Run's uid.
fn workspaces(cluster: &Cluster, pod: &Pod) -> Result<usize> {
    let folder = cluster.node()?.empty_dirs(&pod.uid().unwrap_or_default()).join("workspace");
    let entries = std::fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
    Ok(entries.flatten().filter(|entry| entry.file_name().len() == 36).count())
}

type Value = fn(&Held) -> f64;

/// Sets the figures of each part; what grew, in words.
fn compare(
    samples: &[BTreeMap<String, Held>],
    after: &BTreeMap<String, Held>,
    figures: &mut Figures,
) -> Vec<String> {
    let quarter = samples.len() / 4;
    let mut grown = Vec::new();
    for part in samples.last().into_iter().flat_map(BTreeMap::keys) {
        let mean = |range: &[BTreeMap<String, Held>], value: Value| {
            let values: Vec<f64> = range.iter().filter_map(|sample| sample.get(part)).map(value).collect();
            values.iter().sum::<f64>() / values.len().max(1) as f64
        };
        let (early, late) = (&samples[quarter..2 * quarter], &samples[samples.len() - quarter..]);
        let values: [(&str, f64, Value); 2] = [
            ("memory_mib", MEMORY_SLACK, |held| held.memory / MIB),
            ("fds", DESCRIPTOR_SLACK, |held| held.descriptors as f64),
        ];
        for (what, slack, value) in values {
            let (early, late) = (mean(early, value), mean(late, value));
            figures.set(&format!("soak_{part}_{what}_early"), early);
            figures.set(&format!("soak_{part}_{what}_late"), late);
            if OURS.contains(&part.as_str()) && late - early > slack {
                grown.push(format!("{part} {what} from {early:.1} to {late:.1}"));
            }
        }
        if let Some(held) = after.get(part) {
            figures.set(&format!("soak_{part}_processes_after"), held.processes as f64);
        }
    }
    for stranger in ["sleep", "head", "bash"] {
        if let Some(held) = after.get(stranger) {
            grown.push(format!("{} processes {stranger} are left", held.processes));
        }
    }
    grown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(memory: f64, descriptors: usize) -> BTreeMap<String, Held> {
        BTreeMap::from([("runtimed".to_owned(), Held { memory: memory * MIB, descriptors, processes: 2 })])
    }

    #[test]
    fn what_grows_is_named_and_what_is_flat_is_not() {
        let mut figures = Figures::default();
        let flat: Vec<_> = (0..40).map(|i| sample(20.0 + f64::from(i % 3), 30)).collect();
        assert_eq!(compare(&flat, &sample(20.0, 30), &mut figures), Vec::<String>::new());
        let leaks: Vec<_> = (0..40).map(|i| sample(20.0 + f64::from(i), 30 + i as usize)).collect();
        let grown = compare(&leaks, &sample(60.0, 70), &mut figures);
        assert_eq!(grown.len(), 2, "{grown:?}");
        assert!(grown[0].starts_with("runtimed memory_mib from 34.5 to 54.5"), "{grown:?}");
        let mut left = sample(20.0, 30);
        left.insert("sleep".into(), Held { memory: 0.0, descriptors: 3, processes: 1 });
        assert_eq!(compare(&flat, &left, &mut figures), ["1 processes sleep are left"]);
    }
}
