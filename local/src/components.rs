//! Programs that run beside the API, restarted when they end.

use std::fs::{self, OpenOptions};
use std::path::PathBuf;
use std::time::Duration;

use kruntimes_api::names::OTLP_ENDPOINT_ENV;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::pods::container::{Launch, Output, Process};
use crate::pods::logs::FILE_LIMIT;

/// How long a component may take to end.
const GRACE: Duration = Duration::from_secs(10);

/// First and longest pause before a restart; a component that ran for [`STEADY`] starts at the first again.
const PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));
const STEADY: Duration = Duration::from_secs(30);

/// A program to run beside the API. It gets `KUBECONFIG`, and `--kubeconfig` must be in `args` if it wants that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Component {
    pub name: String,
    pub program: PathBuf,
    pub args: Vec<String>,
}

/// Where a component lives.
#[derive(Debug, Clone)]
pub struct Place {
    pub logs_dir: PathBuf,
    pub init_program: PathBuf,
    pub kubeconfig: PathBuf,
}

/// Keeps a component running until `stop`, then ends it.
pub async fn supervise(component: Component, place: Place, stop: CancellationToken) {
    let mut pause = PAUSE.0;
    loop {
        let started = Instant::now();
        match start(&component, &place) {
            Ok(mut process) => {
                let code = tokio::select! {
                    code = process.wait() => code,
                    () = stop.cancelled() => return end(&component, process).await,
                };
                tracing::warn!(
                    component = component.name,
                    code,
                    "a component has ended; it is started again"
                );
            }
            Err(why) => tracing::error!(component = component.name, %why, "a component cannot be started"),
        }
        if started.elapsed() >= STEADY {
            pause = PAUSE.0;
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(PAUSE.1),
            () = stop.cancelled() => return,
        }
    }
}

fn start(component: &Component, place: &Place) -> std::io::Result<Process> {
    let log = place.logs_dir.join(format!("{}.log", component.name));
    if fs::metadata(&log).is_ok_and(|m| m.len() > FILE_LIMIT) {
        fs::rename(&log, log.with_extension("log.1"))?;
    }
    let file = OpenOptions::new().create(true).append(true).open(&log)?;
    let launch = Launch {
        init_program: place.init_program.clone(),
        lock: place.logs_dir.join(format!("{}.lock", component.name)),
        program: component.program.clone().into(),
        args: component.args.clone(),
        env: environment(place),
        dir: place.logs_dir.clone(),
        mounts: Vec::new(),
    };
    launch.start(Output::File(file))
}

fn environment(place: &Place) -> Vec<(String, String)> {
    let own = [
        ("KUBECONFIG".to_owned(), place.kubeconfig.display().to_string()),
        ("KRUNTIME_BIND_ADDRESS".to_owned(), "127.0.0.1".to_owned()),
    ];
    // The controller hands it on to the containers of Pods.
    let collector = std::env::var(OTLP_ENDPOINT_ENV).map(|endpoint| (OTLP_ENDPOINT_ENV.to_owned(), endpoint));
    own.into_iter().chain(collector).collect()
}

async fn end(component: &Component, mut process: Process) {
    process.terminate();
    if tokio::time::timeout(GRACE, process.wait()).await.is_err() {
        tracing::warn!(component = component.name, "a component did not end in time");
        process.kill();
        process.wait().await;
    }
}
