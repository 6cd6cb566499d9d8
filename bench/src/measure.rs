//! What is measured, in every place alike, step by step.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result};
use kruntimes_api::Run;
use kube::{Api, Client};

use crate::figures::{Figures, percentiles};
use crate::processes::{self, Process, Sample};
use crate::runs::Runs;
use crate::{bare, machine};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Write the figures as one flat JSON object
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// No-op Runs for the throughput
    #[arg(long, value_name = "N", default_value_t = 1000)]
    runs: usize,
    /// Finished Runs that lie in the API when memory is measured
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    finished: usize,
}

/// Where it is measured: 2 Pods of 64 Runs each, ready.
pub trait Place {
    /// As in the command line.
    const NAME: &'static str;
    /// A client with every right.
    async fn client(&self) -> Result<Client>;
    /// Every process of the platform, and of the API that it stands on.
    fn processes(&self) -> Result<Vec<Process>>;
    /// What only this place can tell, after the warm-up.
    async fn more(&self, _client: &Client, _figures: &mut Figures) -> Result<()> {
        Ok(())
    }
    /// What only this place can tell about `count` Runs, which `work` submits.
    async fn around<T>(
        &self,
        _client: &Client,
        _figures: &mut Figures,
        _count: usize,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        work.await
    }
    /// Ends it.
    fn stop(self) -> Result<()>;
}

/// Clients at once where there are several.
const CONCURRENCY: usize = 25;
/// Runs for a distribution.
const ONE_BY_ONE: usize = 100;
const A_FEW: usize = 50;
const IN_PARALLEL: usize = 500;
const SPAWNS: usize = 200;
/// Runs before anything counts: pages are mapped, connections are open.
const WARM_UP: usize = 50;

pub async fn run<P: Place>(platform: P, args: Args) -> Result<()> {
    let client = platform.client().await?;
    let api: Api<Run> = Api::namespaced(client.clone(), "default");
    let mut figures = Figures::default();
    for (name, bytes) in processes::memory(&platform.processes()?) {
        figures.set(&format!("memory_idle_{name}_mib"), bytes / MIB);
    }

    let mut runs = Runs::watch(api.clone()).await?;
    runs.batch("warm", WARM_UP, CONCURRENCY).await?;
    let example = runs.example().context("no Run has ended")?;
    platform.more(&client, &mut figures).await?;

    eprintln!("one at a time: {ONE_BY_ONE} Runs, the bare writes, the bare spawns");
    one_at_a_time(&mut runs, &api, &example, &mut figures).await?;
    eprintln!("{CONCURRENCY} at a time: {IN_PARALLEL} Runs and the bare writes");
    in_parallel(&mut runs, &api, &example, &mut figures).await?;
    eprintln!("throughput: {} Runs and as many bare objects", args.runs);
    throughput(&platform, &client, &mut runs, &example, &mut figures, args.runs).await?;

    let there = runs.ended() + ONE_BY_ONE + A_FEW + IN_PARALLEL + args.runs;
    eprintln!("memory: {} finished Runs", args.finished.max(there));
    if let Some(missing) = args.finished.checked_sub(there) {
        bare::write(&api, &example, "fill", missing, CONCURRENCY).await?;
    }
    figures.set("finished_runs", args.finished.max(there) as f64);
    for (name, bytes) in processes::memory(&platform.processes()?) {
        figures.set(&format!("memory_loaded_{name}_mib"), bytes / MIB);
    }
    platform.stop()?;

    let command = format!("cargo xtask bench {} --runs {} --finished {}", P::NAME, args.runs, args.finished);
    write_down(&figures, &command, args.json.as_deref())
}

/// Prints the figures with where they come from, and writes them as JSON.
pub fn write_down(figures: &Figures, command: &str, json: Option<&Path>) -> Result<()> {
    println!("{}", machine::description());
    println!("Command: `{command}`\n");
    println!("{}", figures.table());
    if let Some(path) = json {
        std::fs::write(path, figures.json()?).with_context(|| format!("cannot write {}", path.display()))?;
        eprintln!("wrote {}", path.display());
    }
    Ok(())
}

pub const MIB: f64 = 1024.0 * 1024.0;

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
    figures.set("terminal_p50_to_writes_ratio", terminal[0] / three[0]);
    figures.set("api_writes_per_run", mean(ended.iter().map(|run| f64::from(run.writes))));
    Ok(())
}

async fn in_parallel(runs: &mut Runs, api: &Api<Run>, example: &Run, figures: &mut Figures) -> Result<()> {
    let few = runs.one_by_one("few", A_FEW, CONCURRENCY).await?;
    let few = percentiles(few.iter().map(|run| run.terminal_ms));
    let bare_few = percentiles(bare::write(api, example, "bare-few", A_FEW, CONCURRENCY).await?.objects_ms);
    figures.set_percentiles("terminal_50_runs_c25", few);
    figures.set_percentiles("bare_three_writes_50_c25", bare_few);
    figures.set("terminal_50_runs_c25_p50_ratio", few[0] / bare_few[0]);
    figures.set("terminal_50_runs_c25_p95_ratio", few[1] / bare_few[1]);

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

async fn throughput<P: Place>(
    platform: &P,
    client: &Client,
    runs: &mut Runs,
    example: &Run,
    figures: &mut Figures,
    count: usize,
) -> Result<()> {
    let api = Api::namespaced(client.clone(), "default");
    let before = Sample::take(&platform.processes()?);
    let work = async {
        let start = Instant::now();
        let ended = runs.batch("full", count, CONCURRENCY).await?;
        Ok((ended, count as f64 / start.elapsed().as_secs_f64()))
    };
    let (ended, rate) = platform.around(client, figures, count, work).await?;
    for (name, seconds) in Sample::take(&platform.processes()?).since(&before) {
        figures.set(&format!("cpu_ms_per_run_{name}"), seconds * 1e3 / count as f64);
    }
    let bare = bare::write(&api, example, "bare-full", count, CONCURRENCY).await?.objects_per_second;
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
