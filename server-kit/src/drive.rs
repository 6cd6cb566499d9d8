//! One execution from acceptance to its end, in one task.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use kruntimes_traces::PARENT_ENV;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

use crate::capture::Pumps;
use crate::engine::{Acceptance, Engine, Run};
use crate::isolation::{Breach, ConfineError, Confinement, GroupCounters, Leaf, Subject};
use crate::police::{Finding, Police};
use crate::resources::Leased;
use crate::server::{self, Launch, LaunchError};
use crate::supervisor::wire::{Counters, Ended, Job, Order, Report, StartStep};
use crate::supervisor::{Control, Streams, memory_file, unix_micros};
use crate::table::{Found, Slot, Timer};
use crate::trace;
use crate::usage::Measured;

/// How long a start may wait for a process before the execution is refused.
const START_PATIENCE: Duration = Duration::from_secs(2);

/// How long the author may take to say how a job starts. With [`START_PATIENCE`] it is less than the ten seconds that runtimed
/// gives the whole call: a refusal is worth more to it than no answer.
const LAUNCH_PATIENCE: Duration = Duration::from_secs(5);
/// How soon a supervisor must have begun, or ended everything, before it is looked after.
const LOOK_AFTER: Duration = Duration::from_secs(1);
/// How long it may take to end everything, which is longer than it tries by itself.
const END_PATIENCE: Duration = Duration::from_secs(35);

impl From<ConfineError> for LaunchError {
    fn from(error: ConfineError) -> Self {
        match error {
            ConfineError::Invalid { field, message } => Self::Invalid { field, message },
            ConfineError::Busy(message) => Self::Busy(message),
            failed @ ConfineError::Failed { .. } => Self::Unavailable(failed.to_string()),
        }
    }
}

/// From the table to the task of one execution.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Command {
    Order(Order),
    Arm(Timer, Duration),
}

/// The task of one execution.
pub(crate) struct Drive {
    engine: Arc<Engine>,
    slot: Slot,
    run: Arc<Run>,
    decide: watch::Sender<Acceptance>,
    commands: mpsc::UnboundedReceiver<Command>,
    timers: Vec<(Instant, Timer)>,
    /// Program and directory, for a message when they do not work.
    tried: (OsString, PathBuf),
    /// What it holds until its last process is gone.
    leased: Option<Leased>,
}

/// A job that a supervisor has.
struct Started {
    control: Control,
    pumps: Pumps,
    confinement: Confinement,
    police: Police,
    /// Samples that were ordered, oldest first.
    samples: VecDeque<Order>,
    /// When its process began.
    since: Option<Instant>,
    /// While its supervisor must say something soon: when to look after it.
    look_after: Option<Instant>,
    /// Set with the order to end everything: until when it may take.
    end_by: Option<Instant>,
    /// Its groups were ended from here, whether or not that order had reached its supervisor.
    crushed: bool,
}

/// What the loop waits for.
enum Event {
    Report(Option<Report>),
    Command(Command),
    Timer(Timer),
    Police(Finding),
    /// The supervisor has not said what it should have.
    Silent,
}

impl Started {
    /// The supervisor has not said that it began, or that everything has ended. A Run with the server's rights can stop it,
    /// where the kernel lets signals through: it goes on then, or is ended at last, and the nursery ends what it leaves.
    fn look_after(&mut self) {
        let now = Instant::now();
        self.look_after = Some(now + LOOK_AFTER);
        self.control.wake();
        let Some(end_by) = self.end_by else { return };
        // Those before it may have found no room.
        self.control.order(Order::Kill);
        if now > end_by {
            self.control.end();
        }
    }
}

impl Drive {
    pub(crate) fn new(
        engine: Arc<Engine>,
        slot: Slot,
        run: Arc<Run>,
        decide: watch::Sender<Acceptance>,
        commands: mpsc::UnboundedReceiver<Command>,
    ) -> Self {
        Self {
            engine,
            slot,
            run,
            decide,
            commands,
            timers: Vec::new(),
            tried: Default::default(),
            leased: None,
        }
    }

    pub(crate) async fn run(mut self) {
        match self.guarded_start().await {
            Err(error) => {
                self.give_back(true);
                self.engine.decide(|table| (table.refused(self.slot), Vec::new()));
                self.decide.send_replace(Acceptance::Refused(error));
            }
            Ok(started) => {
                self.decide.send_replace(Acceptance::Taken);
                let gone = match started {
                    Some(started) => self.supervise(started).await,
                    None => true,
                };
                self.give_back(true);
                if gone {
                    self.engine.author.finished(&self.job()).await;
                }
            }
        }
    }

    /// The job, with what it holds.
    fn job(&self) -> Cow<'_, server::Job> {
        match self.run.allocation.get() {
            Some(allocation) => Cow::Owned(server::Job {
                held: allocation.held.clone(),
                device_paths: allocation.device_paths.clone(),
                ..self.run.job().clone()
            }),
            None => Cow::Borrowed(self.run.job()),
        }
    }

    /// Takes all that the job asks for, or refuses it.
    fn lease(&mut self) -> Result<(), LaunchError> {
        self.leased = self.engine.leases.acquire(self.run.job())?;
        if let Some(leased) = &self.leased {
            let _ = self.run.allocation.set(Arc::clone(&leased.allocation));
        }
        Ok(())
    }

    /// As [`Drive::start`]; mistakes of the author, here and in a provider, are no reason to keep a slot.
    async fn guarded_start(&mut self) -> Result<Option<Started>, LaunchError> {
        let started = AssertUnwindSafe(self.start()).catch_unwind().await;
        started.unwrap_or_else(|_| {
            Err(LaunchError::Unavailable(
                "the server panicked at the start of the execution: its log says where".into(),
            ))
        })
    }

    async fn launch(&self) -> Result<Launch, LaunchError> {
        let launch = tokio::time::timeout(LAUNCH_PATIENCE, self.engine.author.launch(&self.job())).await;
        let late = || format!("the server has not said in {LAUNCH_PATIENCE:?} how to start the execution");
        launch.unwrap_or_else(|_| Err(LaunchError::Unavailable(late())))
    }

    /// Asks the author and hands the job over. `None` when it was stopped before.
    async fn start(&mut self) -> Result<Option<Started>, LaunchError> {
        self.lease()?;
        let launch = self.launch().await?;
        let mut asked = self.engine.ladder.fencing().variables(&self.run.job().working_dir);
        let traceparent = trace::traceparent(&self.run.request, &self.engine.traces);
        asked.extend(traceparent.map(|text| (PARENT_ENV, text.into_bytes())));
        let leased = self.leased.as_ref().map(Leased::env).unwrap_or_default();
        let mut command = self
            .run
            .request
            .command(&launch, &self.engine.passed, asked, leased)
            .map_err(|error| LaunchError::Invalid { field: error.field, message: error.message })?;
        let cwd = launch.cwd.as_deref().unwrap_or(&self.run.job().working_dir);
        self.tried = (launch.program.clone(), cwd.to_owned());
        let away = |error: io::Error| LaunchError::Unavailable(format!("cannot start processes: {error}"));
        let stdin = standard_input(&launch.stdin).map_err(away)?;
        if !self.engine.decide(|table| table.may_start(self.slot, unix_micros())) {
            return Ok(None);
        }
        let (capture, pipes, [stdout, stderr]) = self.engine.capturer.open().map_err(away)?;
        let _ = self.run.capture.set(capture);
        let lease = self.leased.as_ref().map(Leased::lock).transpose().map_err(away)?.flatten();
        let streams = Streams { stdin, stdout, stderr, lease };
        let mut confinement = Confinement::default();
        match self.hand_over(&mut command, streams, &mut confinement).await {
            Ok(control) => {
                let working_dir = &self.run.job().working_dir;
                let own = self.engine.ladder.fencing().own_folder(working_dir);
                let police = Police::new(&confinement, own.as_deref().unwrap_or(working_dir), own.is_some());
                let pumps = pipes.drain();
                Ok(Some(Started {
                    control,
                    pumps,
                    confinement,
                    police,
                    samples: VecDeque::new(),
                    since: None,
                    look_after: Some(Instant::now() + LOOK_AFTER),
                    end_by: None,
                    crushed: false,
                }))
            }
            Err(error) => {
                confinement.release(true).await;
                Err(error)
            }
        }
    }

    /// Confines the job and gives it to a supervisor.
    async fn hand_over(
        &self,
        command: &mut Job,
        streams: Streams,
        confinement: &mut Confinement,
    ) -> Result<Control, LaunchError> {
        let job = self.run.job();
        let subject = Subject {
            working_dir: &job.working_dir,
            resources: &job.resources,
            limits: &job.limits,
            leased: self.run.allocation.get().map_or(&[], |allocation| &allocation.device_paths),
        };
        self.engine.ladder.confine(&subject, confinement)?;
        command.parts = std::mem::take(&mut confinement.parts);
        let starting = self.engine.pool.start_job(command, streams, &confinement.fds);
        match tokio::time::timeout(START_PATIENCE, starting).await {
            Ok(Ok(control)) => Ok(control),
            Ok(Err(error)) => Err(LaunchError::Unavailable(error.to_string())),
            Err(_) => {
                self.engine.pool.wake();
                let trouble = self.engine.pool.trouble().unwrap_or_else(|| "no process in time".to_owned());
                Err(LaunchError::Unavailable(trouble))
            }
        }
    }

    /// Until the last process is gone and the last output is read; false where a process may be left.
    async fn supervise(&mut self, mut started: Started) -> bool {
        let last = loop {
            match self.next(&mut started).await {
                Event::Report(Some(Report::Started { at, pid })) => {
                    self.refill();
                    started.since = Some(Instant::now());
                    started.look_after = None;
                    started.police.may_fill(started.control.given());
                    self.engine.counts.start_seconds.observe(self.run.received.elapsed().as_secs_f64());
                    tracing::debug!(id = self.run.job().id, pid, "started");
                    let _ = self.run.pid.set(pid);
                    self.engine.decide(|table| ((), table.started(self.slot, at)));
                }
                Event::Report(Some(Report::Sampled { wall, counters })) => {
                    self.sampled(&mut started, wall, counters);
                }
                Event::Report(last) => break last,
                Event::Command(Command::Order(order)) => {
                    match order {
                        Order::Sample | Order::Measure => started.samples.push_back(order),
                        Order::Kill => {
                            let now = Instant::now();
                            started.look_after = Some(now + LOOK_AFTER);
                            started.end_by.get_or_insert(now + END_PATIENCE);
                            // Its supervisor may be busy with very many processes.
                            let leaf = started.confinement.leaf.as_ref();
                            if let Some(leaf) = leaf.filter(|_| !started.samples.is_empty()) {
                                leaf.end();
                                started.crushed = true;
                            }
                        }
                        Order::Signal(_) => {}
                    }
                    started.control.order(order);
                }
                Event::Command(Command::Arm(timer, after)) => {
                    self.timers.push((Instant::now() + after, timer))
                }
                Event::Timer(timer) => self.engine.decide(|table| ((), table.timer(self.slot, timer))),
                // One at a time: an order to end must not wait behind samples that take their time.
                Event::Police(Finding::Measure) if started.samples.is_empty() => {
                    started.samples.push_back(Order::Measure);
                    started.control.order(Order::Measure);
                }
                Event::Police(Finding::Measure) => started.control.wake(),
                Event::Police(Finding::Broken(breach)) => self.broken(breach),
                Event::Silent => started.look_after(),
            }
        };
        self.end(started, last).await
    }

    fn refill(&self) {
        self.engine.pool.refill();
        self.engine.ladder.refill();
    }

    fn broken(&self, breach: Breach) {
        self.engine.decide(|table| ((), table.exceeded(self.slot, breach)));
    }

    fn sampled(&self, started: &mut Started, wall: u64, counters: Counters) {
        if started.samples.pop_front() == Some(Order::Measure) {
            started.police.sampled(&counters).into_iter().for_each(|breach| self.broken(breach));
            return;
        }
        self.leased.iter().for_each(Leased::sample);
        let group = started.confinement.leaf.as_ref().map(Leaf::counters).unwrap_or_default();
        let storage_peak = started.police.storage();
        let measured = Measured { wall: Some(wall), rusage: Some(counters), group, storage_peak };
        self.engine.decide(|table| ((), table.sampled(self.slot, measured)));
    }

    /// The supervisor has said its last word, or is gone without one.
    async fn end(&mut self, started: Started, mut last: Option<Report>) -> bool {
        let Started { mut control, pumps, confinement, police, since, crushed, .. } = started;
        let wall = since.and_then(|since| u64::try_from(since.elapsed().as_micros()).ok());
        let leaf = confinement.leaf.as_ref();
        let mut proven = true;
        if last.is_none() {
            if let Some(leaf) = leaf {
                leaf.end();
            }
            proven = control.orphans_gone().await;
        }
        drop(control);
        self.refill();
        let group = match leaf {
            Some(leaf) => {
                proven &= emptied(leaf).await;
                leaf.counters()
            }
            None => GroupCounters::default(),
        };
        self.leased.iter().for_each(Leased::ended);
        let signal = if let Some(Report::Ended(end)) = last { end.signal } else { 0 };
        let (breach, storage_peak) = police.last_look(&group, signal).await;
        pumps.finish().await;
        if let Some(Report::Ended(end)) = &mut last {
            proven &= end.proven;
            end.stopped |= crushed && end.signal == nix::libc::SIGKILL;
        }
        confinement.release(proven).await;
        self.give_back(proven);
        let slot = self.slot;
        self.engine.decide(|table| {
            let actions = match last {
                Some(Report::Ended(end)) => {
                    let end = Ended { proven, ..end };
                    let (wall, rusage) = (Some(end.wall), Some(end.counters));
                    let measured = Measured { wall, rusage, group, storage_peak };
                    table.ended(slot, Found { end, measured, breach })
                }
                Some(Report::StartFailed { at, step, errno }) => {
                    let (code, message) = self.explain(step, errno);
                    table.start_failed(slot, at, code, message)
                }
                _ => table.lost(slot, unix_micros(), wall, proven, group),
            };
            ((), actions)
        });
        proven
    }

    /// Before the end is told: who hears of it may send the next.
    fn give_back(&mut self, proven: bool) {
        let Some(leased) = self.leased.take() else { return };
        leased.sample();
        if proven {
            leased.give_back();
        }
    }

    async fn next(&mut self, started: &mut Started) -> Event {
        let Started { control, confinement, police, look_after, .. } = started;
        let silent = async {
            match look_after {
                Some(at) => sleep_until(*at).await,
                None => std::future::pending().await,
            }
        };
        let due = self
            .timers
            .iter()
            .enumerate()
            .min_by_key(|(_, (at, _))| *at)
            .map(|(index, (at, _))| (index, *at));
        let timer = async {
            match due {
                Some((index, at)) => {
                    sleep_until(at).await;
                    index
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            report = control.report() => Event::Report(report),
            Some(command) = self.commands.recv() => Event::Command(command),
            index = timer => Event::Timer(self.timers.swap_remove(index).1),
            () = silent => Event::Silent,
            finding = police.look(confinement.leaf.as_ref()) => Event::Police(finding),
        }
    }

    /// Exit code and message of a failed start: 127 not found, 126 anything else.
    fn explain(&self, step: StartStep, errno: i32) -> (i32, String) {
        let error = io::Error::from_raw_os_error(errno);
        let code = if step == StartStep::Exec && errno == nix::libc::ENOENT { 127 } else { 126 };
        let (program, cwd) = (self.tried.0.display(), self.tried.1.display());
        let what = match step {
            StartStep::Exec => format!("could not start \"{program}\""),
            StartStep::Directory => format!("could not enter the working directory \"{cwd}\""),
            StartStep::Fork | StartStep::Group | StartStep::Stdio => {
                format!("could not make the process of \"{program}\"")
            }
            StartStep::Confine(axis) => {
                format!("could not put \"{program}\" within its bounds ({})", axis.name())
            }
        };
        (code, format!("{what}: {error}"))
    }
}

/// Whether nothing is left in the groups of an execution: by the kernel's word. What is there after all is
/// ended again.
async fn emptied(leaf: &Leaf) -> bool {
    const PATIENCE: Duration = Duration::from_secs(5);
    let deadline = Instant::now() + PATIENCE;
    let mut pause = Duration::from_micros(200);
    while !leaf.is_empty() {
        if Instant::now() > deadline {
            return false;
        }
        tokio::time::sleep(pause).await;
        // The last of them may only have been late.
        leaf.end();
        pause = (pause * 2).min(Duration::from_millis(50));
    }
    true
}

/// Nothing to read, or `bytes` from an anonymous file.
fn standard_input(bytes: &[u8]) -> io::Result<OwnedFd> {
    if bytes.is_empty() {
        return Ok(std::fs::File::open("/dev/null")?.into());
    }
    memory_file(bytes)
}
