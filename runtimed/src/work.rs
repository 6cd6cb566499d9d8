//! The slow part of one attempt: a task that carries out the engine's actions in order.
//!
//! Each step is bounded in time or waits for the server to come back; preparing can be
//! cut short. What a step came to goes back to the engine as an event.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use kruntimes_api::run::{Run, RunSpec};
use kruntimes_core::ids::Fence;
use kruntimes_core::run::AttemptUsage;
use kruntimes_proto::v1::{self, StopCause};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::engine::{Collected, Event, ExecuteFailure, PrepareFailure, Prepared, Record};
use crate::logs::{DRAIN_LIMIT, Follower, Labels, Printer};
use crate::server::{
    CallError, End, Execution, ExecutionState, Instance, RequestContext, RuntimeClient, ServerView,
    execute_request,
};
use crate::source::{self, Git};
use crate::text::last_bytes;
use crate::workspace::Workspaces;
use crate::workspace::journal::Journal;
use crate::workspace::outputs::OutputsError;

/// Bytes of output in the status.
const LOG_TAIL: usize = 1024;
/// How long an older execution in the way is given to end, beyond its grace.
const EVICT_LIMIT: Duration = Duration::from_secs(15);
/// Tries of Cancel on a server that answers with an error.
const CANCEL_TRIES: u32 = 3;
/// Between tries: the first pause, doubled up to the longest.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));
/// The server says "still running" of a finished execution no longer than this.
const FORGET_LIMIT: Duration = Duration::from_secs(60);

/// What all attempts share.
pub struct Context {
    /// Folders.
    pub workspaces: Workspaces,
    /// Survives us.
    pub journal: Journal,
    /// For sources.
    pub git: Git,
    /// For requests.
    pub request: RequestContext,
    /// For log lines.
    pub pod: String,
    /// For output.
    pub printer: Printer,
    /// The server.
    pub views: watch::Receiver<ServerView>,
    /// To the engine.
    pub events: mpsc::Sender<Event>,
}

/// One action, without the fence, which the task knows.
#[derive(Debug)]
pub enum Step {
    /// See [`crate::engine::Action::Prepare`].
    Prepare(Arc<RunSpec>),
    /// See [`crate::engine::Action::Execute`].
    Execute {
        /// For names.
        run: Arc<Run>,
        /// With defaults.
        spec: Arc<RunSpec>,
        /// What to run in.
        prepared: Prepared,
        /// For which start of the server.
        instance: Instance,
    },
    /// See [`crate::engine::Action::Ask`].
    Ask,
    /// See [`crate::engine::Action::Follow`].
    Follow(Arc<Run>),
    /// See [`crate::engine::Action::Cancel`].
    Cancel(StopCause, Duration),
    /// See [`crate::engine::Action::Collect`].
    Collect(Box<Execution>),
    /// See [`crate::engine::Action::Release`].
    Release {
        /// For the end mark.
        run: Option<Arc<Run>>,
        /// For the end mark.
        usage: Option<AttemptUsage>,
        /// The server may know it.
        executed: bool,
        /// It may run.
        cancel: bool,
    },
}

/// The task of one attempt.
pub struct Attempt {
    context: Arc<Context>,
    fence: Fence,
    follower: Option<Follower>,
}

impl Attempt {
    /// Starts the task; it ends after a release.
    pub fn start(
        context: Arc<Context>,
        fence: Fence,
        steps: mpsc::UnboundedReceiver<Step>,
        abort: CancellationToken,
    ) {
        let attempt = Self { context, fence, follower: None };
        tokio::spawn(attempt.run(steps, abort));
    }

    async fn run(mut self, mut steps: mpsc::UnboundedReceiver<Step>, abort: CancellationToken) {
        while let Some(step) = steps.recv().await {
            let fence = self.fence.clone();
            let event = match step {
                Step::Prepare(spec) => {
                    let prepared = tokio::select! {
                        biased;
                        () = abort.cancelled() => continue,
                        result = self.prepare(&spec) => result,
                    };
                    Event::Prepared { fence, result: prepared }
                }
                Step::Execute { run, spec, prepared, instance } => {
                    Event::Executed { fence, result: self.execute(&run, &spec, &prepared, &instance).await }
                }
                Step::Ask => match self.ask().await {
                    Some(answer) => answer,
                    None => continue,
                },
                Step::Follow(run) => {
                    self.follow(&run);
                    continue;
                }
                Step::Cancel(cause, grace) => {
                    self.cancel(cause, grace).await;
                    continue;
                }
                Step::Collect(execution) => {
                    Event::Collected { fence, collected: self.collect(*execution).await }
                }
                Step::Release { run, usage, executed, cancel } => {
                    let mark = run.map(|run| {
                        Labels::new(&run, &self.fence, &self.context.pod).end_mark(usage.as_ref())
                    });
                    self.release(mark, executed, cancel).await;
                    let _ = self.context.events.send(Event::Released { fence }).await;
                    return;
                }
            };
            if self.context.events.send(event).await.is_err() {
                return;
            }
        }
    }

    async fn prepare(&self, spec: &RunSpec) -> Result<Prepared, PrepareFailure> {
        let record = Record::new(&self.fence);
        self.note(record).await.map_err(|error| PrepareFailure {
            reason: kruntimes_api::Reason::SourceFailed,
            message: format!("cannot write the journal: {error}"),
        })?;
        source::prepare(&self.context.workspaces, &self.context.git, &self.fence.run, spec).await
    }

    async fn note(&self, record: Record) -> std::io::Result<()> {
        let (journal, uid) = (self.context.journal.clone(), self.fence.run.clone());
        tokio::task::spawn_blocking(move || journal.put(&uid, &record)).await?
    }

    async fn execute(
        &self,
        run: &Run,
        spec: &RunSpec,
        prepared: &Prepared,
        instance: &Instance,
    ) -> Result<(), ExecuteFailure> {
        let client = self.context.views.borrow().client.clone();
        let Some(client) = client.filter(|client| client.instance() == instance) else {
            return Err(ExecuteFailure::Unavailable("the Runtime Server was restarted".into()));
        };
        // First on record, then sent: after a crash in between we know that it may run.
        let record = Record {
            sent_to: Some(instance.clone()),
            subfolder: prepared.subfolder.clone(),
            resolved_sha: prepared.resolved_sha.clone(),
            ..Record::new(&self.fence)
        };
        if let Err(error) = self.note(record).await {
            return Err(ExecuteFailure::Unavailable(format!("cannot write the journal: {error}")));
        }
        let context = &self.context.request;
        let request = execute_request(context, run, spec, &self.fence, prepared, instance, Timestamp::now());
        let sent = match client.execute(request.clone()).await {
            Err(error) if error.answered && error.code == tonic::Code::AlreadyExists => {
                self.evict(&*client, request, error).await
            }
            other => other,
        };
        sent.map_err(execute_failure)
    }

    /// Ends and forgets an older execution under our id, then tries again.
    async fn evict(
        &self,
        client: &dyn RuntimeClient,
        request: v1::ExecuteRequest,
        mut refusal: CallError,
    ) -> Result<(), CallError> {
        let whichever = Fence { run: self.fence.run.clone(), attempt: 0, assignment: 0 };
        let until = Instant::now() + self.context.request.grace + EVICT_LIMIT;
        let mut pause = BACKOFF.0;
        while Instant::now() < until {
            client.cancel(&whichever, StopCause::Evicted, self.context.request.grace).await.ok();
            if client.forget(&whichever).await.is_ok() {
                match client.execute(request.clone()).await {
                    Err(error) if error.answered && error.code == tonic::Code::AlreadyExists => {
                        refusal = error
                    }
                    other => return other,
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(BACKOFF.1);
        }
        Err(refusal)
    }

    /// What the server has of this attempt; `None` when the connection went meanwhile: whatever
    /// comes after it is judged anew.
    async fn ask(&self) -> Option<Event> {
        let asked = self.context.views.borrow().client.clone()?;
        loop {
            match asked.status(&self.fence).await {
                Ok(execution) => return Some(Event::Execution(Box::new(execution))),
                Err(error) if error.is_not_found() => return Some(Event::Missing(self.fence.run.clone())),
                Err(error) => tracing::debug!(fence = %self.fence, %error, "status was not answered"),
            }
            tokio::time::sleep(BACKOFF.1).await;
            let now = self.context.views.borrow().client.clone()?;
            if !Arc::ptr_eq(&asked, &now) {
                return None;
            }
        }
    }

    fn follow(&mut self, run: &Run) {
        let context = &self.context;
        self.follower.get_or_insert_with(|| {
            let labels = Labels::new(run, &self.fence, &context.pod);
            Follower::start(self.fence.clone(), labels, context.views.clone(), context.printer.clone())
        });
    }

    async fn cancel(&self, cause: StopCause, grace: Duration) {
        for _ in 0..CANCEL_TRIES {
            let client = self.context.views.borrow().client.clone();
            // Without a connection there is nobody to tell; the engine asks again when there is.
            let Some(client) = client else { return };
            match client.cancel(&self.fence, cause, grace).await {
                Ok(()) => return,
                Err(error) if error.is_not_found() || !error.answered => return,
                Err(error) => tracing::warn!(fence = %self.fence, %error, "cancel was refused"),
            }
            tokio::time::sleep(BACKOFF.1).await;
        }
    }

    async fn collect(&self, execution: Execution) -> Collected {
        let ExecutionState::Ended(end) = execution.state else {
            return Collected { outputs: Ok(BTreeMap::new()), log_tail: None };
        };
        let (outputs, log_tail) = tokio::join!(self.outputs(end.succeeded), self.log_tail(&end));
        Collected { outputs, log_tail }
    }

    async fn outputs(&self, succeeded: bool) -> Result<BTreeMap<String, String>, OutputsError> {
        if !succeeded {
            return Ok(BTreeMap::new());
        }
        let (workspaces, uid) = (self.context.workspaces.clone(), self.fence.run.clone());
        let read = tokio::task::spawn_blocking(move || workspaces.read_outputs(&uid));
        read.await.unwrap_or_else(|error| Err(OutputsError::Unreadable { why: error.to_string() }))
    }

    /// The end of its output. Events come without it: then the server is asked.
    async fn log_tail(&self, end: &End) -> Option<String> {
        if let Some(tail) = tail_of(end) {
            return Some(tail);
        }
        let client = self.context.views.borrow().client.clone()?;
        match client.status(&self.fence).await {
            Ok(Execution { state: ExecutionState::Ended(known), .. }) => tail_of(&known),
            _ => None,
        }
    }

    async fn release(&mut self, mark: Option<Vec<u8>>, executed: bool, cancel: bool) {
        if cancel {
            self.cancel(StopCause::Cancelled, self.context.request.grace).await;
        }
        if let Some(follower) = self.follower.take()
            && !follower.drain(DRAIN_LIMIT).await
        {
            tracing::warn!(fence = %self.fence, "output was not taken in time and is dropped");
        }
        if let Some(mark) = mark {
            let printing = self.context.printer.print(mark);
            let _ = tokio::time::timeout(DRAIN_LIMIT, printing).await;
        }
        if executed {
            self.forget(cancel).await;
        }
        let (workspaces, journal, fence) =
            (self.context.workspaces.clone(), self.context.journal.clone(), self.fence.clone());
        let cleaned = tokio::task::spawn_blocking(move || {
            if let Err(error) = workspaces.remove(&fence.run) {
                // It stays on record, so that the next start tries again.
                return tracing::error!(%fence, %error, "the workspace could not be removed");
            }
            if let Err(error) = journal.remove(&fence.run) {
                tracing::error!(%fence, %error, "the journal record could not be removed");
            }
        });
        let _ = cleaned.await;
    }

    /// Until the server has nothing of it any more.
    async fn forget(&self, cancel: bool) {
        let mut views = self.context.views.clone();
        let mut pause = BACKOFF.0;
        let since = Instant::now();
        loop {
            let client = match views.wait_for(|view| view.client.is_some()).await {
                Ok(view) => view.client.clone(),
                Err(_) => return,
            };
            let Some(client) = client else { return };
            match client.forget(&self.fence).await {
                Ok(()) => return,
                Err(error) if error.is_not_found() => return,
                Err(error) if error.answered && error.code == tonic::Code::FailedPrecondition => {
                    if cancel {
                        self.cancel(StopCause::Cancelled, self.context.request.grace).await;
                    } else if since.elapsed() > FORGET_LIMIT {
                        return tracing::error!(fence = %self.fence, %error, "the server does not forget it");
                    }
                }
                Err(error) => tracing::debug!(fence = %self.fence, %error, "forget did not go through"),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(BACKOFF.1);
        }
    }
}

/// The end of stderr, or of stdout when stderr is silent.
fn tail_of(end: &End) -> Option<String> {
    [&end.stderr_tail, &end.stdout_tail]
        .into_iter()
        .map(|text| last_bytes(text.trim_end(), LOG_TAIL))
        .find(|text| !text.is_empty())
        .map(str::to_owned)
}

fn execute_failure(error: CallError) -> ExecuteFailure {
    if !error.sent {
        return ExecuteFailure::Unavailable(error.message);
    }
    if !error.answered {
        return ExecuteFailure::Unknown(error.message);
    }
    match error.code {
        tonic::Code::ResourceExhausted => ExecuteFailure::NoRoom(error.message),
        tonic::Code::InvalidArgument => ExecuteFailure::Invalid(error.message),
        tonic::Code::Unavailable => ExecuteFailure::Unavailable(error.message),
        // A session that the server does not know any more: it was restarted, and nothing was accepted.
        tonic::Code::Unauthenticated => ExecuteFailure::Unavailable(error.message),
        _ => ExecuteFailure::Rejected(error.message),
    }
}
