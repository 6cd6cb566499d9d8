//! The engine: takes requests in, drives each execution, and tells watchers.
//!
//! One lock around the table. Decisions are made under it, and so is what only fills a channel;
//! whatever waits is done by one task per execution ([`Drive`]), which never depends on the call that
//! began it.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kruntimes_proto::v1::watch_event::Event;
use kruntimes_proto::v1::{self, DescribeResponse, Snapshot, StatusResponse, StopCause};
use kruntimes_traces::Traces;
use tokio::sync::{Notify, broadcast, mpsc, watch};

use crate::author::Author;
use crate::capture::{Capture, Capturer};
use crate::drive::{Command, Drive};
use crate::environment::PassList;
use crate::isolation::Ladder;
use crate::metrics::{Counts, Ending};
use crate::request::{Invalid, Request, execution_id};
use crate::resources::{Allocation, Leases};
use crate::server::{Job, LaunchError};
use crate::status;
use crate::supervisor::wire::Order;
use crate::supervisor::{Pool, unix_micros};
use crate::table::{Accepted, Action, Bounds, Entry, ExecutionId, Fence, Refusal, Slot, State, Table};
use crate::trace;

/// Output tail in Status, bytes per stream.
const TAIL: usize = 64 * 1024;
/// Events a watcher may lie behind before its stream ends.
const WATCH_BACKLOG: usize = 4096;

/// Why a call fails; the service maps it to a code.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum CallError {
    #[error(transparent)]
    Invalid(#[from] Invalid),
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error(transparent)]
    Launch(#[from] LaunchError),
}

/// Parts that the engine is made of.
pub(crate) struct Parts {
    pub author: Arc<dyn Author>,
    pub pool: Pool,
    pub capturer: Capturer,
    pub passed: PassList,
    pub counts: Counts,
    pub ladder: Ladder,
    pub leases: Arc<Leases>,
    pub traces: Traces,
    pub describe: DescribeResponse,
    pub bounds: Bounds,
    pub work_dir: PathBuf,
}

/// Resources and devices, as Describe has them.
type Inventory = (Vec<v1::Resource>, Vec<v1::InventoryDevice>);

/// See the module.
pub(crate) struct Engine {
    pub(crate) author: Arc<dyn Author>,
    pub(crate) pool: Pool,
    pub(crate) capturer: Capturer,
    pub(crate) passed: PassList,
    pub(crate) counts: Counts,
    pub(crate) ladder: Ladder,
    pub(crate) leases: Arc<Leases>,
    pub(crate) traces: Traces,
    table: Mutex<Table<Arc<Run>>>,
    describe: DescribeResponse,
    /// As it was told last.
    inventory: Mutex<Inventory>,
    work_dir: PathBuf,
    events: broadcast::Sender<Arc<Event>>,
    changed: Notify,
}

/// What is kept with an execution beside the table's own state.
pub(crate) struct Run {
    pub request: Request,
    pub received: Instant,
    commands: mpsc::UnboundedSender<Command>,
    acceptance: watch::Receiver<Acceptance>,
    /// Set once, when it holds something.
    pub allocation: std::sync::OnceLock<Arc<Allocation>>,
    /// Set once, when the pipes are made.
    pub capture: std::sync::OnceLock<Capture>,
    /// Set once, when its process is started.
    pub pid: std::sync::OnceLock<i32>,
}

/// Whether the author took the execution.
#[derive(Clone, Debug)]
pub(crate) enum Acceptance {
    Open,
    Taken,
    Refused(LaunchError),
}

impl Run {
    pub(crate) fn job(&self) -> &Job {
        &self.request.job
    }

    async fn accepted(&self) -> Result<(), CallError> {
        let mut acceptance = self.acceptance.clone();
        let decided = acceptance.wait_for(|now| !matches!(now, Acceptance::Open)).await;
        match decided.map(|now| now.clone()) {
            Ok(Acceptance::Refused(error)) => Err(error.into()),
            Ok(Acceptance::Taken | Acceptance::Open) => Ok(()),
            Err(_) => Err(LaunchError::Unavailable("its task is gone".into()).into()),
        }
    }
}

impl Engine {
    pub(crate) fn new(parts: Parts) -> Arc<Self> {
        let inventory = Mutex::new(parts.leases.inventory());
        Arc::new(Self {
            author: parts.author,
            pool: parts.pool,
            capturer: parts.capturer,
            passed: parts.passed,
            counts: parts.counts,
            ladder: parts.ladder,
            leases: parts.leases,
            traces: parts.traces,
            table: Mutex::new(Table::new(parts.bounds)),
            describe: parts.describe,
            inventory,
            work_dir: parts.work_dir,
            events: broadcast::Sender::new(WATCH_BACKLOG),
            changed: Notify::new(),
        })
    }

    /// Takes an execution in and returns when it is accepted. Goes on also when the caller goes away.
    pub(crate) async fn execute(self: &Arc<Self>, wire: v1::ExecuteRequest) -> Result<(), CallError> {
        let result = self.take_in(wire).await;
        if result.is_err() {
            self.counts.refused.inc();
        }
        result
    }

    async fn take_in(self: &Arc<Self>, wire: v1::ExecuteRequest) -> Result<(), CallError> {
        let request = Request::check(wire, &self.describe.options, &self.work_dir, unix_micros())?;
        let (id, fence, limits) = (request.id.clone(), request.fence, request.limits);
        let mut task = None;
        let accepted = {
            let mut table = self.table();
            let accepted = table.execute(&id, fence, limits, || {
                let (commands, orders) = mpsc::unbounded_channel();
                let (decide, acceptance) = watch::channel(Acceptance::Open);
                task = Some((decide, orders));
                let received = Instant::now();
                Arc::new(Run {
                    request,
                    received,
                    commands,
                    acceptance,
                    allocation: Default::default(),
                    capture: Default::default(),
                    pid: Default::default(),
                })
            })?;
            if let Accepted::New { actions, .. } = &accepted {
                self.act(&table, actions);
            }
            accepted
        };
        let run = match accepted {
            Accepted::Same(run) => run,
            Accepted::New { slot, payload: run, .. } => {
                if let Some((decide, orders)) = task {
                    let drive = Drive::new(Arc::clone(self), slot, Arc::clone(&run), decide, orders);
                    tokio::spawn(drive.run());
                }
                run
            }
        };
        run.accepted().await
    }

    /// One decision of the table and what follows from it.
    pub(crate) fn decide<T>(&self, event: impl FnOnce(&mut Table<Arc<Run>>) -> (T, Vec<Action>)) -> T {
        let mut table = self.table();
        let (result, actions) = event(&mut table);
        self.act(&table, &actions);
        result
    }

    /// Only fills channels: it is called under the table's lock, so that watchers see states in order.
    fn act(&self, table: &Table<Arc<Run>>, actions: &[Action]) {
        for action in actions {
            match *action {
                Action::Signal(slot, signal) => {
                    self.command(table, slot, Command::Order(Order::Signal(signal)))
                }
                Action::Kill(slot) => self.command(table, slot, Command::Order(Order::Kill)),
                Action::Arm(slot, timer, after) => self.command(table, slot, Command::Arm(timer, after)),
                Action::Publish(slot) => self.publish(table, slot),
            }
        }
        let count = |value: usize| i64::try_from(value).unwrap_or(i64::MAX);
        self.counts.active.set(count(table.active()));
        self.counts.kept.set(count(table.len()));
        self.counts.stale_events.set(table.stale().cast_signed());
        self.changed.notify_waiters();
    }

    fn command(&self, table: &Table<Arc<Run>>, slot: Slot, command: Command) {
        if let Some((_, entry)) = table.at(slot) {
            // The task is gone only when the execution has ended.
            let _ = entry.payload.commands.send(command);
        }
    }

    fn publish(&self, table: &Table<Arc<Run>>, slot: Slot) {
        let Some((id, entry)) = table.at(slot) else { return };
        if let State::Finished(outcome) = &entry.state {
            let cause = outcome.cause.as_str_name().trim_start_matches("STOP_CAUSE_").to_ascii_lowercase();
            self.counts.ended.get_or_create(&Ending { cause }).inc();
            if let Some(span) = self.traces.is_on().then(|| trace::process(&entry.payload, outcome)).flatten()
            {
                self.traces.record(span);
            }
        }
        if self.events.receiver_count() > 0 {
            let _ = self.events.send(Arc::new(Event::Execution(self.told(id, entry))));
        }
    }

    /// With output tails.
    pub(crate) fn status(&self, id: &str, fence: Fence) -> Result<StatusResponse, CallError> {
        let id = execution_id(id)?;
        let (mut status, run) = {
            let table = self.table();
            let entry = table.find(&id, fence)?;
            (self.told(&id, entry), Arc::clone(&entry.payload))
        };
        if let Some(capture) = run.capture.get() {
            status.stdout = capture.stdout.tail(TAIL);
            status.stderr = capture.stderr.tail(TAIL);
        }
        Ok(status)
    }

    /// Without output tails.
    pub(crate) fn list(&self) -> Vec<StatusResponse> {
        let table = self.table();
        table.iter().map(|(id, entry)| self.told(id, entry)).collect()
    }

    /// An execution as it is now, with what it holds.
    fn told(&self, id: &ExecutionId, entry: &Entry<Arc<Run>>) -> StatusResponse {
        let mut status = status::status(id, entry, self.isolation(&entry.payload));
        if let Some(allocation) = entry.payload.allocation.get() {
            allocation.tell(&mut status, Instant::now());
        }
        status
    }

    /// The run of an execution and whether it has ended, for its output.
    pub(crate) fn run(&self, id: &str, fence: Fence) -> Result<(Arc<Run>, bool), CallError> {
        let table = self.table();
        let entry = table.find(&execution_id(id)?, fence)?;
        Ok((Arc::clone(&entry.payload), matches!(entry.state, State::Finished(_))))
    }

    pub(crate) fn cancel(
        &self,
        id: &str,
        fence: Fence,
        cause: StopCause,
        grace: Option<Duration>,
    ) -> Result<(), CallError> {
        let id = execution_id(id)?;
        let cause = if cause == StopCause::Unspecified { StopCause::Cancelled } else { cause };
        self.decide(|table| match table.cancel(&id, fence, cause, grace) {
            Ok(actions) => (Ok(()), actions),
            Err(refusal) => (Err(refusal.into()), Vec::new()),
        })
    }

    pub(crate) fn forget(&self, id: &str, fence: Fence) -> Result<(), CallError> {
        let id: ExecutionId = execution_id(id)?;
        // Dropped after the lock is released: it may own files.
        let _dropped = self.decide(|table| (table.forget(&id, fence), Vec::new()))?;
        Ok(())
    }

    /// Subscribes first, then looks: nothing falls between.
    pub(crate) fn watch(&self) -> (Snapshot, broadcast::Receiver<Arc<Event>>) {
        let events = self.events.subscribe();
        (Snapshot { executions: self.list(), describe: Some(self.describe()) }, events)
    }

    pub(crate) fn describe(&self) -> DescribeResponse {
        let (resources, devices) = self.inventory().clone();
        DescribeResponse { resources, devices, ..self.describe.clone() }
    }

    /// Tells the inventory when it is not what was told last.
    pub(crate) fn tell_inventory(&self) {
        // In this order: of two that look at once the later one is told last.
        let mut told = self.inventory();
        let found = self.leases.inventory();
        if *told != found {
            *told = found;
            drop(told);
            let _ = self.events.send(Arc::new(Event::Inventory(self.describe())));
        }
    }

    /// Why no work can be started just now, as far as the kit itself knows.
    pub(crate) fn ready(&self) -> Result<(), String> {
        if self.table().is_draining() {
            return Err("draining: the server is stopping".into());
        }
        if let Some(trouble) = self.pool.trouble() {
            return Err(trouble);
        }
        let access = nix::unistd::AccessFlags::W_OK | nix::unistd::AccessFlags::X_OK;
        if let Err(errno) = nix::unistd::access(&self.work_dir, access) {
            return Err(format!("work dir {}: {}", self.work_dir.display(), errno.desc()));
        }
        Ok(())
    }

    /// As [`Engine::ready`], and asks the author.
    pub(crate) async fn health(&self) -> Result<(), String> {
        const PATIENCE: Duration = Duration::from_millis(900);
        self.ready()?;
        tokio::time::timeout(PATIENCE, self.author.health())
            .await
            .unwrap_or_else(|_| Err("the server's own health check does not answer".into()))
    }

    /// Measures what runs, at once; the figures come as events.
    pub(crate) fn sample(&self) {
        let table = self.table();
        for (_, entry) in table.iter() {
            if matches!(entry.state, State::Running { .. }) {
                let _ = entry.payload.commands.send(Command::Order(Order::Sample));
            }
        }
    }

    /// Whether anybody watches.
    pub(crate) fn is_watched(&self) -> bool {
        self.events.receiver_count() > 0
    }

    /// No new work from now on.
    pub(crate) fn drain(&self) {
        self.decide(|table| (table.drain(), Vec::new()));
    }

    /// Stops whatever is not finished.
    pub(crate) fn stop_all(&self, cause: StopCause, grace: Duration) {
        self.decide(|table| ((), table.stop_all(cause, grace)));
    }

    /// Waits until the execution has output pipes, or none will come.
    pub(crate) async fn until_output_or_end(&self, run: &Arc<Run>) {
        let id = &run.request.id;
        self.wait(|table| {
            let current =
                table.find(id, Fence::default()).ok().filter(|entry| Arc::ptr_eq(&entry.payload, run));
            run.capture.get().is_some()
                || current.is_none_or(|entry| matches!(entry.state, State::Finished(_)))
        })
        .await;
    }

    /// Waits until `done` holds of (active, not forgotten).
    pub(crate) async fn until(&self, done: impl Fn(usize, usize) -> bool) {
        self.wait(|table| done(table.active(), table.len())).await;
    }

    async fn wait(&self, done: impl Fn(&Table<Arc<Run>>) -> bool) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if done(&self.table()) {
                return;
            }
            changed.await;
        }
    }

    fn isolation(&self, run: &Run) -> &v1::Isolation {
        self.ladder.record_of(&run.job().working_dir)
    }

    fn inventory(&self) -> MutexGuard<'_, Inventory> {
        self.inventory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn table(&self) -> MutexGuard<'_, Table<Arc<Run>>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
