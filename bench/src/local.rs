//! What is measured on the local platform, step by step.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, Result};
use kruntimes_api::Run;
use kube::Api;

use crate::figures::{Figures, percentiles};
use crate::platform::Platform;
use crate::processes::{self, Sample};
use crate::runs::Runs;
use crate::{bare, machine};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Write the figures as one flat JSON object
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// No-op Runs for the throughput
    #[arg(long, value_name = "N", default_value_t = 1000)]
    runs: usize,
    /// Finished Runs that lie in the API when memory is measured
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    finished: usize,
}

/// Clients at once where there are several.
const CONCURRENCY: usize = 25;
/// Runs for a distribution.
const ONE_BY_ONE: usize = 100;
const IN_PARALLEL: usize = 500;
const SPAWNS: usize = 200;
/// Runs before anything counts: pages are mapped, connections are open.
const WARM_UP: usize = 50;

pub async fn run(args: Args) -> Result<()> {
    eprintln!("starting a local platform with 2 Pods x 64 Runs");
    let platform = Platform::start()?;
    let client = platform.client().await?;
    let api: Api<Run> = Api::namespaced(client.clone(), "default");
    let mut figures = Figures::default();
    for (name, bytes) in processes::memory(&platform.processes()?) {
        figures.set(&format!("memory_idle_{name}_mib"), bytes / MIB);
    }

    let mut runs = Runs::watch(api.clone()).await?;
    runs.batch("warm", WARM_UP, CONCURRENCY).await?;
    let example = runs.example().context("no Run has ended")?;

    eprintln!("one at a time: {ONE_BY_ONE} Runs, the bare writes, the bare spawns");
    one_at_a_time(&mut runs, &api, &example, &mut figures).await?;
    eprintln!("{CONCURRENCY} at a time: {IN_PARALLEL} Runs and the bare writes");
    in_parallel(&mut runs, &api, &example, &mut figures).await?;
    eprintln!("throughput: {} Runs and as many bare objects", args.runs);
    throughput(&platform, &mut runs, &api, &example, &mut figures, args.runs).await?;

    let there = runs.ended() + ONE_BY_ONE + IN_PARALLEL + args.runs;
    eprintln!("memory: {} finished Runs", args.finished.max(there));
    if let Some(missing) = args.finished.checked_sub(there) {
        bare::write(&api, &example, "fill", missing, CONCURRENCY).await?;
    }
    figures.set("finished_runs", args.finished.max(there) as f64);
    for (name, bytes) in processes::memory(&platform.processes()?) {
        figures.set(&format!("memory_loaded_{name}_mib"), bytes / MIB);
    }
    platform.stop()?;

    println!("{}", machine::description());
    println!("Command: `cargo xtask bench local --runs {} --finished {}`\n", args.runs, args.finished);
    println!("{}", figures.table());
    if let Some(path) = args.json {
        std::fs::write(&path, figures.json()?).with_context(|| format!("cannot write {}", path.display()))?;
        eprintln!("wrote {}", path.display());
    }
    Ok(())
}

const MIB: f64 = 1024.0 * 1024.0;

async fn one_at_a_time(runs: &mut Runs, api: &Api<Run>, example: &Run, figures: &mut Figures) -> Result<()> {
    let ended = runs.one_by_one("one", ONE_BY_ONE, 1).await?;
    let start = percentiles(ended.iter().map(|run| run.start_ms));
    let terminal = percentiles(ended.iter().map(|run| run.terminal_ms));
    let three = percentiles(bare::write(api, example, "bare-one", ONE_BY_ONE, 1).await?.objects_ms);
    let spawn = percentiles(bare::spawn(SPAWNS)?);
    figures.set_percentiles("start", start);
    figures.set_percentiles("terminal", terminal);
    figures.set_percentiles("bare_three_writes", three);
    figures.set_percentiles("bare_spawn", spawn);
    figures.set("terminal_p50_ratio", terminal[0] / (three[0] + spawn[0]));
    figures.set("api_writes_per_run", mean(ended.iter().map(|run| f64::from(run.writes))));
    Ok(())
}

async fn in_parallel(runs: &mut Runs, api: &Api<Run>, example: &Run, figures: &mut Figures) -> Result<()> {
    let ended = runs.one_by_one("many", IN_PARALLEL, CONCURRENCY).await?;
    let terminal = percentiles(ended.iter().map(|run| run.terminal_ms));
    let three =
        percentiles(bare::write(api, example, "bare-many", IN_PARALLEL, CONCURRENCY).await?.objects_ms);
    figures.set_percentiles("start_c25", percentiles(ended.iter().map(|run| run.start_ms)));
    figures.set_percentiles("terminal_c25", terminal);
    figures.set_percentiles("bare_three_writes_c25", three);
    figures.set("terminal_c25_p50_ratio", terminal[0] / three[0]);
    figures.set("terminal_c25_p95_ratio", terminal[1] / three[1]);
    figures.set("api_writes_per_run_c25", mean(ended.iter().map(|run| f64::from(run.writes))));
    Ok(())
}

async fn throughput(
    platform: &Platform,
    runs: &mut Runs,
    api: &Api<Run>,
    example: &Run,
    figures: &mut Figures,
    count: usize,
) -> Result<()> {
    let before = Sample::take(&platform.processes()?);
    let start = Instant::now();
    let ended = runs.batch("full", count, CONCURRENCY).await?;
    let rate = count as f64 / start.elapsed().as_secs_f64();
    for (name, seconds) in Sample::take(&platform.processes()?).since(&before) {
        figures.set(&format!("cpu_ms_per_run_{name}"), seconds * 1e3 / count as f64);
    }
    let bare = bare::write(api, example, "bare-full", count, CONCURRENCY).await?.objects_per_second;
    figures.set("runs_per_second", rate);
    figures.set("bare_objects_per_second", bare);
    figures.set("runs_per_second_ratio", rate / bare);
    figures.set("api_writes_per_run_full", mean(ended.iter().map(|run| f64::from(run.writes))));
    Ok(())
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) = values.fold((0.0, 0.0), |(sum, count), value| (sum + value, count + 1.0));
    sum / count
}
