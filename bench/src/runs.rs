//! No-op Runs, submitted as any client would.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use jiff::Timestamp;
use kruntimes_api::Run;
use kruntimes_api::run::{Phase, RunSpec, Source};
use kube::Api;
use kube::api::PostParams;

use crate::platform::RUNTIME;
use crate::watch::{End, Watch};

/// Longer than any healthy platform needs for what is asked here.
const DEADLINE: Duration = Duration::from_secs(120);

/// A Run that ended well.
#[derive(Debug)]
pub struct Ended {
    /// From before the create to the start of its process.
    pub start_ms: f64,
    /// From before the create to the sight of its end.
    pub terminal_ms: f64,
    /// Writes to the object, by anybody.
    pub writes: u32,
}

pub struct Runs {
    api: Api<Run>,
    watch: Watch,
    ended: usize,
    example: Option<Run>,
}

impl Runs {
    pub async fn watch(api: Api<Run>) -> Result<Self> {
        let watch = Watch::start(api.clone()).await?;
        Ok(Self { api, watch, ended: 0, example: None })
    }

    /// How many have ended so far.
    pub fn ended(&self) -> usize {
        self.ended
    }

    /// One that has ended.
    pub fn example(&self) -> Option<Run> {
        self.example.clone()
    }

    /// `clients` submit and wait for the end before each submits the next.
    pub async fn one_by_one(&mut self, prefix: &str, count: usize, clients: usize) -> Result<Vec<Ended>> {
        let (api, watch) = (&self.api, &self.watch);
        let all = stream::iter((0..count).map(|i| async move {
            let sent = submit(api, watch, format!("{prefix}-{i}")).await?;
            sent.ended().await
        }));
        let all = all.buffer_unordered(clients).try_collect().await?;
        Ok(self.keep(all))
    }

    /// `clients` submit and do not wait; then all are waited for.
    pub async fn batch(&mut self, prefix: &str, count: usize, clients: usize) -> Result<Vec<Ended>> {
        let (api, watch) = (&self.api, &self.watch);
        let sent: Vec<Sent> = stream::iter((0..count).map(|i| submit(api, watch, format!("{prefix}-{i}"))))
            .buffer_unordered(clients)
            .try_collect()
            .await?;
        let all =
            stream::iter(sent.into_iter().map(Sent::ended)).buffer_unordered(count).try_collect().await?;
        Ok(self.keep(all))
    }

    fn keep(&mut self, all: Vec<(Ended, Run)>) -> Vec<Ended> {
        self.ended += all.len();
        let (ended, mut runs): (Vec<_>, Vec<_>) = all.into_iter().unzip();
        self.example = runs.pop().or(self.example.take());
        ended
    }
}

/// A Run that was submitted.
struct Sent {
    name: String,
    clock: Timestamp,
    at: Instant,
    end: tokio::sync::oneshot::Receiver<End>,
}

async fn submit(api: &Api<Run>, watch: &Watch, name: String) -> Result<Sent> {
    let run = no_op(&name);
    let end = watch.expect(&name);
    let (clock, at) = (Timestamp::now(), Instant::now());
    api.create(&PostParams::default(), &run).await.with_context(|| format!("cannot create {name}"))?;
    Ok(Sent { name, clock, at, end })
}

/// Starts bash and ends at once.
pub fn no_op(name: &str) -> Run {
    let source = Source { inline: Some(":".to_owned()), ..Source::default() };
    Run::new(name, RunSpec { runtime: RUNTIME.to_owned(), source: Some(source), ..RunSpec::default() })
}

impl Sent {
    async fn ended(self) -> Result<(Ended, Run)> {
        let name = self.name;
        let end = tokio::time::timeout(DEADLINE, self.end)
            .await
            .with_context(|| format!("{name} has not ended after {DEADLINE:?}"))?
            .with_context(|| format!("the watch broke before {name} ended"))?;
        let status = end.run.status.as_ref().context("an ended Run has a status")?;
        if status.phase != Some(Phase::Succeeded) {
            bail!("{name} ended as {:?}: {}", status.phase, status.message.as_deref().unwrap_or_default());
        }
        let started = end.started.with_context(|| format!("{name} has no startTime"))?;
        let ended = Ended {
            start_ms: started.duration_since(self.clock).as_secs_f64() * 1e3,
            terminal_ms: (end.at - self.at).as_secs_f64() * 1e3,
            writes: end.writes,
        };
        Ok((ended, end.run))
    }
}
