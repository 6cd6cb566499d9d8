//! A small world around the engine: an API, a server, a disk and a clock, all of which
//! misbehave at random. After every step the laws are checked; at the end, when the faults
//! stop, everything must come to rest with nothing left behind.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use kruntimes_api::run::{Phase, RetryPolicy, Run, RunSpec};
use kruntimes_core::ids::{Fence, PodRef, PodUid, RunUid};
use kruntimes_core::run::{Event as RunEvent, Lost, State, patch, transition};
use kruntimes_proto::v1::StopCause;
use proptest::prelude::*;

use super::*;
use crate::server::{End, ExecutionState};

/// The model of one execution on the server.
#[derive(Debug, Clone)]
struct Live {
    fence: Fence,
    end: Option<End>,
    stopping: Option<StopCause>,
}

#[derive(Debug)]
struct Task {
    fence: Fence,
    steps: VecDeque<Action>,
    aborted: bool,
}

#[derive(Debug)]
struct PendingWrite {
    fence: Fence,
    run: Arc<Run>,
    event: RunEvent,
    hurried: bool,
}

pub(super) struct World {
    engine: Engine,
    settings: Settings,
    base: (Instant, Timestamp),
    elapsed: Duration,
    version: u64,
    runs: BTreeMap<RunUid, Run>,
    watch: VecDeque<Event>,
    // The server: what it has, whether we are connected, what it has said on this connection.
    instance: u32,
    connected: bool,
    executions: BTreeMap<RunUid, Live>,
    said: VecDeque<Event>,
    // This Pod's disk.
    journal: HashMap<RunUid, Record>,
    workspaces: BTreeSet<RunUid>,
    tasks: Vec<Task>,
    writes: Vec<PendingWrite>,
    starts: HashMap<Fence, u32>,
}

impl World {
    pub(super) fn new(count: u32) -> Self {
        let settings = Settings {
            pod: PodRef { name: "pod".into(), uid: PodUid::from("pod-uid") },
            defaults: None,
            window: Duration::from_millis(25),
            grace: Duration::from_secs(1),
            patience: Duration::from_secs(2),
        };
        let mut world = Self {
            engine: Engine::new(settings.clone(), HashMap::new()),
            settings,
            base: (Instant::now(), Timestamp::from_second(1_800_000_000).unwrap()),
            elapsed: Duration::ZERO,
            version: 1,
            runs: BTreeMap::new(),
            watch: VecDeque::new(),
            instance: 1,
            connected: false,
            executions: BTreeMap::new(),
            said: VecDeque::new(),
            journal: HashMap::new(),
            workspaces: BTreeSet::new(),
            tasks: Vec::new(),
            writes: Vec::new(),
            starts: HashMap::new(),
        };
        for n in 0..count {
            let mut run = Run::new(
                &format!("run-{n}"),
                RunSpec {
                    timeout: Some("5s".into()),
                    retry_policy: Some(RetryPolicy { max_attempts: Some(2), ..RetryPolicy::default() }),
                    ..RunSpec::default()
                },
            );
            run.metadata.uid = Some(format!("uid-{n}"));
            run.metadata.resource_version = Some("1".into());
            run.metadata.creation_timestamp =
                Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(world.base.1));
            world.runs.insert(uid(&run), run);
        }
        world.start_program();
        world
    }

    fn now(&self) -> Now {
        Now { wall: self.base.1 + self.elapsed, mono: self.base.0 + self.elapsed }
    }

    fn start_program(&mut self) {
        self.tasks.clear();
        self.writes.clear();
        self.watch.clear();
        self.said.clear();
        self.engine = Engine::new(self.settings.clone(), self.journal.clone());
        let mine = self.runs.values().filter(|run| is_mine(run)).map(|run| Arc::new(run.clone())).collect();
        self.watch.push_back(Event::Listed(mine));
        self.connected = false;
        self.connect();
    }

    fn connect(&mut self) {
        self.connected = true;
        let executions = self.executions.values().map(|live| live.tell()).collect();
        self.said.push_back(Event::ServerUp { instance: self.id(), executions });
    }

    fn disconnect(&mut self) {
        self.said.clear();
        self.connected = false;
        self.said.push_back(Event::ServerDown);
    }

    fn id(&self) -> Instance {
        Instance::Native(self.instance.to_string())
    }

    fn send(&mut self, event: Event) {
        let actions = self.engine.handle(event, self.now());
        for action in actions {
            self.take(action);
        }
        self.check();
    }

    fn take(&mut self, action: Action) {
        let fence = match &action {
            Action::CountStale => return,
            Action::Write { fence, run, event } => {
                assert!(
                    !self.writes.iter().any(|write| write.fence.run == fence.run && !write.hurried),
                    "two writes of {fence} at once"
                );
                let (fence, run, event) = (fence.clone(), Arc::clone(run), (**event).clone());
                return self.writes.push(PendingWrite { fence, run, event, hurried: false });
            }
            Action::HurryWrite { fence } => {
                let mut hurried = self.writes.iter_mut().filter(|write| write.fence == *fence);
                return hurried.next().expect("a write to hurry").hurried = true;
            }
            Action::Prepare { fence, .. }
            | Action::Abort { fence }
            | Action::Execute { fence, .. }
            | Action::Ask { fence }
            | Action::Follow { fence, .. }
            | Action::Cancel { fence, .. }
            | Action::Collect { fence, .. }
            | Action::Release { fence, .. } => fence.clone(),
        };
        let index = self.tasks.iter().position(|task| task.fence == fence).unwrap_or_else(|| {
            self.tasks.push(Task { fence: fence.clone(), steps: VecDeque::new(), aborted: false });
            self.tasks.len() - 1
        });
        match action {
            Action::Abort { .. } => self.tasks[index].aborted = true,
            step => self.tasks[index].steps.push_back(step),
        }
    }

    /// The laws that hold after every event.
    fn check(&self) {
        for (fence, starts) in &self.starts {
            assert!(*starts <= 1, "{fence} was started {starts} times");
        }
        for uid in self.runs.keys() {
            let working = self.tasks.iter().filter(|task| task.fence.run == *uid).count();
            assert!(working <= 1, "{working} attempts of {uid} at once: {:?}", self.tasks);
        }
    }

    fn update(&mut self, uid: &RunUid, change: impl FnOnce(&mut Run)) {
        let Some(run) = self.runs.get_mut(uid) else { return };
        let was_mine = is_mine(run);
        change(run);
        self.version += 1;
        run.metadata.resource_version = Some(self.version.to_string());
        if is_mine(run) {
            self.watch.push_back(Event::Seen(Arc::new(run.clone())));
        } else if was_mine {
            self.watch.push_back(Event::Gone(uid.clone()));
        }
    }

    /// Somebody else's transition.
    fn others(&mut self, uid: &RunUid, event: &RunEvent) {
        let Some(run) = self.runs.get(uid) else { return };
        if let Ok(status) = transition(run, event, self.now().wall) {
            self.update(uid, |run| run.status = Some(status));
        }
    }

    fn write(&mut self, index: usize) {
        let write = self.writes.remove(index);
        let mut read = write.run;
        let outcome = loop {
            let status = match transition(&read, &write.event, self.now().wall) {
                Ok(status) => status,
                Err(refusal) => break Written::Refused(refusal),
            };
            let Some(current) = self.runs.get(&write.fence.run) else { break Written::Gone };
            if patch(&read, &status).is_none() {
                break Written::Applied(read);
            }
            if current.metadata.resource_version == read.metadata.resource_version {
                self.update(&write.fence.run, |run| run.status = Some(status));
                break Written::Applied(Arc::new(self.runs[&write.fence.run].clone()));
            }
            read = Arc::new(current.clone());
        };
        self.send(Event::Written { fence: write.fence, outcome });
    }

    /// Carries out the next step of a task; `luck` decides how it goes.
    fn step(&mut self, index: usize, luck: u8) {
        let (fence, aborted) = (self.tasks[index].fence.clone(), self.tasks[index].aborted);
        let Some(step) = self.tasks[index].steps.pop_front() else { return };
        match step {
            Action::Prepare { .. } if aborted => {}
            Action::Prepare { .. } => {
                self.journal.insert(fence.run.clone(), Record::new(&fence));
                self.workspaces.insert(fence.run.clone());
                let message = "no such repository".to_owned();
                let failure = PrepareFailure { reason: Reason::SourceFailed, message };
                let result = if luck % 8 == 7 { Err(failure) } else { Ok(Prepared::default()) };
                self.send(Event::Prepared { fence, result });
            }
            Action::Execute { instance, prepared, .. } => {
                let result = self.execute(&fence, instance, prepared, luck);
                self.send(Event::Executed { fence, result });
            }
            Action::Ask { .. } if self.connected => {
                let found = self.executions.get(&fence.run).filter(|live| live.fence == fence);
                let answer = found.map(|live| Event::Execution(Box::new(live.tell())));
                self.send(answer.unwrap_or(Event::Missing(fence.run)));
            }
            Action::Cancel { cause, .. } => self.cancel(&fence, cause),
            Action::Collect { .. } => {
                let collected = Collected { outputs: Ok(BTreeMap::new()), log_tail: None };
                self.send(Event::Collected { fence, collected });
            }
            Action::Release { executed, cancel, .. } => self.release(index, fence, executed, cancel),
            _ => {}
        }
    }

    fn execute(
        &mut self,
        fence: &Fence,
        instance: Instance,
        prepared: Prepared,
        luck: u8,
    ) -> Result<(), ExecuteFailure> {
        let why = || "luck".to_owned();
        if !self.connected || instance != self.id() {
            return Err(ExecuteFailure::Unavailable(why()));
        }
        let record = Record { sent_to: Some(instance), subfolder: prepared.subfolder, ..Record::new(fence) };
        self.journal.insert(fence.run.clone(), record);
        // The same answer again, whatever the server would say to a new one.
        let again = self.executions.get(&fence.run).is_some_and(|there| there.fence == *fence);
        match luck % 16 {
            11 | 12 if again => return Err(ExecuteFailure::Unknown(why())),
            _ if again => return Ok(()),
            8 => return Err(ExecuteFailure::NoRoom(why())),
            9 => return Err(ExecuteFailure::Unavailable(why())),
            10 => return Err(ExecuteFailure::Rejected(why())),
            11 => return Err(ExecuteFailure::Unknown(why())),
            _ => {}
        }
        if let Some(there) = self.executions.get(&fence.run) {
            assert!(
                there.fence == *fence || there.end.is_some(),
                "{fence} was sent while {there:?} is alive"
            );
        }
        assert!(self.workspaces.contains(&fence.run), "{fence} starts without a workspace");
        *self.starts.entry(fence.clone()).or_default() += 1;
        let live = Live { fence: fence.clone(), end: None, stopping: None };
        self.say(&live);
        self.executions.insert(fence.run.clone(), live);
        if luck % 16 == 12 { Err(ExecuteFailure::Unknown(why())) } else { Ok(()) }
    }

    fn cancel(&mut self, fence: &Fence, cause: StopCause) {
        if !self.connected {
            return;
        }
        if let Some(live) = self.executions.get_mut(&fence.run).filter(|live| live.is_meant(fence)) {
            live.stopping.get_or_insert(cause);
        }
    }

    fn release(&mut self, index: usize, fence: Fence, executed: bool, cancel: bool) {
        if executed && !self.connected {
            let step = Action::Release { fence, run: None, usage: None, executed, cancel };
            return self.tasks[index].steps.push_front(step);
        }
        if executed && let Some(live) = self.executions.get(&fence.run).filter(|live| live.is_meant(&fence)) {
            assert!(cancel || live.end.is_some(), "{fence} is released while it is alive");
            self.executions.remove(&fence.run);
        }
        let alive = self.executions.get(&fence.run).filter(|live| live.end.is_none());
        assert!(alive.is_none() || executed, "the workspace of {alive:?} is removed");
        self.workspaces.remove(&fence.run);
        self.journal.remove(&fence.run);
        self.tasks.remove(index);
        self.send(Event::Released { fence });
    }

    fn say(&mut self, live: &Live) {
        if self.connected {
            self.said.push_back(Event::Execution(Box::new(live.tell())));
        }
    }

    fn end_execution(&mut self, nth: usize, well: bool) {
        let alive: Vec<RunUid> = self
            .executions
            .iter()
            .filter(|(_, live)| live.end.is_none())
            .map(|(uid, _)| uid.clone())
            .collect();
        let Some(uid) = alive.get(nth % alive.len().max(1)) else { return };
        let at = self.now().wall;
        let Some(live) = self.executions.get_mut(uid) else { return };
        let cause = live.stopping.unwrap_or(StopCause::Exited);
        let succeeded = well && live.stopping.is_none();
        live.end = Some(End {
            succeeded,
            exit_code: i32::from(!succeeded),
            signal: 0,
            cause,
            message: String::new(),
            finished_at: Some(at),
            stdout_tail: String::new(),
            stderr_tail: String::new(),
        });
        let live = live.clone();
        self.say(&live);
    }

    /// One random step; `which` chooses it, `luck` its details.
    pub(super) fn random(&mut self, which: u8, luck: u8) {
        let nth = usize::from(luck);
        let some_run = self.runs.keys().nth(nth % self.runs.len().max(1)).cloned();
        match which % 20 {
            0 | 1 => {
                let bind = RunEvent::Bind { pod: self.settings.pod.clone(), queued_at: self.now().wall };
                if let Some(uid) = some_run {
                    self.others(&uid, &bind);
                }
            }
            2 if luck.is_multiple_of(4) => {
                if let Some(uid) = some_run {
                    self.update(&uid, |run| run.spec.cancel_requested = Some(true));
                }
            }
            3 if luck.is_multiple_of(2) => {
                if let Some(uid) = some_run {
                    self.update(&uid, |run| run.spec.suspend = Some(run.spec.suspend != Some(true)));
                }
            }
            4..=7 if !self.tasks.is_empty() => self.step(nth % self.tasks.len(), luck / 4),
            8 | 9 if !self.writes.is_empty() => {
                let index = nth % self.writes.len();
                if luck.is_multiple_of(4) && self.writes[index].hurried {
                    let fence = self.writes.remove(index).fence;
                    self.send(Event::Written { fence, outcome: Written::Abandoned });
                } else if luck % 4 != 1 {
                    self.write(index);
                }
            }
            10 | 11 => self.deliver_watch(),
            12 | 13 => self.deliver_said(),
            14 => self.end_execution(nth, luck.is_multiple_of(3)),
            15 => {
                self.elapsed += Duration::from_millis(u64::from(luck) * 10);
                self.send(Event::Tick);
            }
            16 if luck.is_multiple_of(4) => self.start_program(),
            17 if luck.is_multiple_of(4) => {
                self.disconnect();
                self.executions.clear();
                self.instance += 1;
                self.connect();
            }
            18 if luck.is_multiple_of(2) => {
                self.disconnect();
                if luck.is_multiple_of(4) {
                    self.connect();
                }
            }
            19 if luck.is_multiple_of(8) => {
                // Liveness forces a retry although we may be alive.
                let event = RunEvent::PodLost {
                    pod: self.settings.pod.uid.clone(),
                    lost: Lost::Unhealthy,
                    message: "forced".into(),
                };
                if let Some(uid) = some_run {
                    self.others(&uid, &event);
                }
            }
            19 if luck % 8 == 1 => {
                if let Some(uid) = some_run.filter(|_| self.runs.len() > 1) {
                    let run = self.runs.remove(&uid);
                    if run.is_some_and(|run| is_mine(&run)) {
                        self.watch.push_back(Event::Gone(uid));
                    }
                }
            }
            _ => {}
        }
    }

    fn deliver_watch(&mut self) {
        if let Some(event) = self.watch.pop_front() {
            self.send(event);
        }
    }

    fn deliver_said(&mut self) {
        if let Some(event) = self.said.pop_front() {
            self.send(event);
        }
    }

    /// The faults stop: everything comes to rest.
    pub(super) fn settle(&mut self) {
        if !self.connected {
            self.connect();
        }
        for _ in 0..20_000 {
            let waiting = !(self.watch.is_empty() && self.said.is_empty() && self.writes.is_empty());
            let working = self.tasks.iter().position(|task| !task.steps.is_empty());
            let bound: Vec<RunUid> = self.runs.keys().cloned().collect();
            if waiting {
                self.deliver_watch();
                self.deliver_said();
                if !self.writes.is_empty() {
                    self.write(0);
                }
            } else if let Some(index) = working {
                self.step(index, 0);
            } else if self.executions.values().any(|live| live.end.is_none()) {
                self.end_execution(0, true);
            } else if self.engine.due().is_some() {
                self.elapsed += Duration::from_millis(500);
                self.send(Event::Tick);
            } else if let Some(uid) = bound.iter().find(|uid| is_pending(&self.runs[*uid])) {
                let uid = uid.clone();
                self.update(&uid, |run| run.spec.suspend = None);
                let bind = RunEvent::Bind { pod: self.settings.pod.clone(), queued_at: self.now().wall };
                self.others(&uid, &bind);
            } else {
                return self.check_rest();
            }
        }
        panic!("it does not come to rest: {:?} {:?} {:?}", self.engine, self.tasks, self.runs);
    }

    fn check_rest(&self) {
        assert!(self.engine.is_idle(), "{:?}", self.engine);
        assert!(self.executions.is_empty(), "left on the server: {:?}", self.executions);
        assert!(self.journal.is_empty(), "left in the journal: {:?}", self.journal);
        assert!(self.workspaces.is_empty(), "left on the disk: {:?}", self.workspaces);
        for run in self.runs.values() {
            assert!(matches!(State::of(run), Ok(State::Ended { .. })), "{run:?}");
        }
    }
}

impl Live {
    fn is_meant(&self, fence: &Fence) -> bool {
        fence.attempt == 0 || self.fence == *fence
    }

    fn tell(&self) -> Execution {
        Execution {
            id: self.fence.run.clone(),
            of: Some((self.fence.attempt, self.fence.assignment)),
            state: self
                .end
                .clone()
                .map_or(ExecutionState::Running, |end| ExecutionState::Ended(Box::new(end))),
            started_at: None,
            usage: None,
            devices: Vec::new(),
            isolation: Vec::new(),
            backend: None,
        }
    }
}

fn uid(run: &Run) -> RunUid {
    RunUid::from(run.metadata.uid.as_deref().unwrap())
}

/// What the watch's selector lets through.
fn is_mine(run: &Run) -> bool {
    let Some(status) = &run.status else { return false };
    status.assigned_pod.as_deref() == Some("pod") && !status.phase.unwrap_or_default().is_terminal()
}

fn is_pending(run: &Run) -> bool {
    run.status.as_ref().and_then(|status| status.phase).unwrap_or_default() == Phase::Pending
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_no_run_is_lost_or_run_twice(steps in prop::collection::vec(any::<(u8, u8)>(), 0..400)) {
        let mut world = World::new(3);
        for (which, luck) in steps {
            world.random(which, luck);
        }
        world.settle();
    }
}
