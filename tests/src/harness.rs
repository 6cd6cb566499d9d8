//! Runs named cases on one platform, each in a namespace and a runtime of its own.

use std::future::Future;
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Failed, Trial};

use crate::{Cluster, Platform};

type Body = Box<dyn Fn(Cluster) -> Pin<Box<dyn Future<Output = anyhow::Result<()>> + Send>> + Send + Sync>;

/// Set, it leaves the namespaces of the tests where they are.
const KEEP: &str = "KRT_KEEP";

/// One test.
pub struct Case {
    name: &'static str,
    body: Body,
}

impl Case {
    /// A test called `name`.
    pub fn new<F, R>(name: &'static str, body: F) -> Self
    where
        F: Fn(Cluster) -> R + Send + Sync + 'static,
        R: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        Self { name, body: Box::new(move |cluster| Box::pin(body(cluster))) }
    }
}

type Took = Arc<Mutex<Vec<(Duration, &'static str)>>>;

/// Cases that may run beside each other.
pub struct Stage {
    /// How many of them run at a time.
    pub at_once: usize,
    /// The cases.
    pub cases: Vec<Case>,
}

/// Runs `cases` on what `start` gives, a few at a time, and stops that before it returns.
pub fn main<P: Platform + 'static>(start: impl FnOnce() -> anyhow::Result<P>, cases: Vec<Case>) -> ExitCode {
    // Each case mostly waits for the platform; a few at a time keep two cores busy.
    main_shared(start, 4, |_| cases)
}

/// Like [`main`] for cases that need the platform itself; `at_once` of them run at a time.
pub fn main_shared<P: Platform + 'static>(
    start: impl FnOnce() -> anyhow::Result<P>,
    at_once: usize,
    cases: impl FnOnce(&Arc<P>) -> Vec<Case>,
) -> ExitCode {
    main_in_stages(start, |platform| vec![Stage { at_once, cases: cases(platform) }])
}

/// Like [`main`] with one stage after the other, all on one platform.
pub fn main_in_stages<P: Platform + 'static>(
    start: impl FnOnce() -> anyhow::Result<P>,
    stages: impl FnOnce(&Arc<P>) -> Vec<Stage>,
) -> ExitCode {
    // Ends this process when it cannot be understood: before there is anything to stop.
    let arguments = Arguments::from_args();
    let platform = match start() {
        Ok(platform) => Arc::new(platform),
        Err(error) => {
            eprintln!("the platform did not start: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    let mut has_failed = false;
    for stage in stages(&platform) {
        let (start, took) = (Instant::now(), Took::default());
        let mut arguments = arguments.clone();
        arguments.test_threads.get_or_insert(stage.at_once);
        let trials = stage.cases.into_iter().map(|case| {
            let (platform, took) = (platform.clone(), Arc::clone(&took));
            Trial::test(case.name, move || {
                let start = Instant::now();
                let result = run(platform, &case);
                took.lock().unwrap_or_else(PoisonError::into_inner).push((start.elapsed(), case.name));
                result
            })
        });
        has_failed |= libtest_mimic::run(&arguments, trials.collect()).has_failed();
        tell(start.elapsed(), &took);
    }
    if let Err(error) = platform.stop() {
        eprintln!("the platform did not end as it should: {error:#}");
        has_failed = true;
    }
    if has_failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Says where the time went.
fn tell(all: Duration, took: &Took) {
    let mut took = took.lock().unwrap_or_else(PoisonError::into_inner);
    took.sort();
    let slowest: Vec<_> =
        took.iter().rev().take(8).map(|(t, name)| format!("{name} {} s", t.as_secs())).collect();
    eprintln!("{} cases in {} s; longest: {}", took.len(), all.as_secs(), slowest.join(", "));
}

fn run(platform: Arc<dyn Platform>, case: &Case) -> Result<(), Failed> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let cluster = Cluster::new(platform, case.name).await.map_err(|e| format!("{e:#}"))?;
        let result = (case.body)(cluster.clone()).await;
        // The rest of one test must not take the room of the next; a person may want to look at it.
        let removed = if std::env::var_os(KEEP).is_some() { Ok(()) } else { cluster.remove().await };
        result.and(removed).map_err(|e| Failed::from(format!("{e:#}")))
    })
}
