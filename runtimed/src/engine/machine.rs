//! The machine itself.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Instant;

use kruntimes_api::run::Run;
use kruntimes_core::ids::{Fence, RunUid};
use kruntimes_core::run::{Event as RunEvent, State, effective};

use super::entry::{Announce, Entry, Stage, Stop, Writing};
use super::{Action, Collected, Event, Now, PrepareFailure, Prepared, Record, Settings, Written, finish};
use crate::server::{Execution, ExecutionState, Instance};

/// A connected server and all it knows.
#[derive(Debug)]
pub(super) struct Server {
    pub instance: Instance,
    pub known: HashMap<RunUid, Execution>,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Drain {
    pub until: Instant,
    pub end_started: bool,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Engine {
    pub(super) settings: Settings,
    pub(super) entries: BTreeMap<RunUid, Entry>,
    pub(super) journal: HashMap<RunUid, Record>,
    pub(super) server: Option<Server>,
    pub(super) synced: bool,
    pub(super) drain: Option<Drain>,
    /// The last assignment that ended here, of Runs that the watch has not taken from us yet: it
    /// lags behind our writes, and what it still says of them must not begin anything again.
    ended: HashMap<RunUid, i64>,
    pub(super) out: Vec<Action>,
}

impl Engine {
    /// `journal` is what an earlier run of this program left.
    pub fn new(settings: Settings, journal: HashMap<RunUid, Record>) -> Self {
        Self {
            settings,
            entries: BTreeMap::new(),
            journal,
            server: None,
            synced: false,
            drain: None,
            ended: HashMap::new(),
            out: Vec::new(),
        }
    }

    /// Takes one event and says what to do about it.
    pub fn handle(&mut self, event: Event, now: Now) -> Vec<Action> {
        match event {
            Event::Listed(runs) => self.listed(runs, now),
            Event::Seen(run) => self.seen(run, now),
            Event::Gone(uid) => self.gone(&uid),
            Event::ServerUp { instance, executions } => self.server_up(instance, executions, now),
            Event::ServerDown => self.server_down(now),
            Event::Execution(execution) => self.execution(*execution, now),
            Event::Missing(uid) => self.missing(&uid, now),
            Event::Prepared { fence, result } => self.prepared(&fence, result, now),
            Event::Executed { fence, result } => self.executed(&fence, result, now),
            Event::Collected { fence, collected } => self.collected(&fence, collected, now),
            Event::Written { fence, outcome } => self.written(&fence, outcome),
            Event::Released { fence } => self.released(&fence, now),
            Event::Drain { until, end_started } => self.start_drain(until, end_started, now),
            Event::Tick => {}
        }
        self.timers(now);
        std::mem::take(&mut self.out)
    }

    /// When [`Event::Tick`] is wanted.
    pub fn due(&self) -> Option<Instant> {
        let drain =
            self.drain.filter(|drain| drain.end_started && self.has_running()).map(|drain| drain.until);
        self.entries.values().filter_map(Entry::due).chain(drain).min()
    }

    /// Nothing is under way.
    pub fn is_idle(&self) -> bool {
        self.entries.is_empty()
    }

    /// The list of Runs was complete at least once.
    pub fn is_synced(&self) -> bool {
        self.synced
    }

    /// Attempts that are not finished.
    pub fn active(&self) -> usize {
        self.entries.values().filter(|entry| entry.is_unfinished()).count()
    }

    fn has_running(&self) -> bool {
        self.entries.values().any(|entry| entry.stop.is_none() && entry.is_unfinished())
    }

    fn listed(&mut self, runs: Vec<Arc<Run>>, now: Now) {
        let listed: Vec<RunUid> = runs.iter().map(|run| uid_of(run)).collect();
        let missing: Vec<RunUid> = self.entries.keys().filter(|uid| !listed.contains(uid)).cloned().collect();
        for uid in missing {
            self.gone(&uid);
        }
        self.ended.retain(|uid, _| listed.contains(uid));
        for run in runs {
            self.seen(run, now);
        }
        self.synced = true;
        self.clear_orphans(now);
    }

    pub(super) fn seen(&mut self, run: Arc<Run>, now: Now) {
        let Ok(state) = State::of(&run) else { return };
        let uid = uid_of(&run);
        let ours =
            state.bound().filter(|(pod, _)| pod.uid == self.settings.pod.uid).map(|(_, fence)| fence.clone());
        let Some(fence) = ours else { return self.gone(&uid) };
        if self.ended.get(&uid).is_some_and(|ended| fence.assignment <= *ended) {
            return self.out.push(Action::CountStale);
        }
        let Some(entry) = self.entries.get_mut(&uid) else { return self.begin(run, fence, now) };
        match fence.assignment.cmp(&entry.fence.assignment) {
            std::cmp::Ordering::Less => self.out.push(Action::CountStale),
            std::cmp::Ordering::Greater => {
                entry.next = Some(run);
                self.revoke(&uid);
            }
            std::cmp::Ordering::Equal if entry.is_unfinished() => {
                entry.run = Some(Arc::clone(&run));
                self.wishes(&uid, &run, now);
            }
            std::cmp::Ordering::Equal => {}
        }
    }

    fn begin(&mut self, run: Arc<Run>, fence: Fence, now: Now) {
        let uid = fence.run.clone();
        self.ended.remove(&uid);
        let record = match self.journal.remove(&uid) {
            Some(record) if record.is_of(&fence) => record,
            Some(older) => {
                // It may be alive, in the folder that this one needs.
                let older = Fence { run: uid, attempt: older.attempt, assignment: older.assignment };
                return self.clear(older, Some(run), now);
            }
            None => Record::new(&fence),
        };
        let spec = Arc::new(effective(&run.spec, self.settings.defaults.as_ref()));
        self.entries.insert(uid.clone(), Entry::new(Arc::clone(&run), spec, fence, record, now));
        self.wishes(&uid, &run, now);
        if self.drain.is_some() {
            self.stop_unsent(&uid, now);
        }
        self.decide(&uid, now);
    }

    /// Cancel and suspend, as the Run asks now.
    fn wishes(&mut self, uid: &RunUid, run: &Run, now: Now) {
        if run.spec.cancel_requested == Some(true) {
            self.stop(uid, Stop::Cancelled, now);
        } else if run.spec.suspend == Some(true) {
            self.stop(uid, Stop::Suspended, now);
        }
    }

    fn prepared(&mut self, fence: &Fence, result: Result<Prepared, PrepareFailure>, now: Now) {
        let Some(entry) = self.current(fence) else { return };
        if !matches!(entry.stage, Stage::Preparing) {
            return;
        }
        match result {
            Ok(prepared) => {
                entry.resolved_sha.clone_from(&prepared.resolved_sha);
                self.send(&fence.run.clone(), prepared, now);
            }
            Err(PrepareFailure { reason, message }) => {
                self.write_last(&fence.run, |entry| finish::without_end(entry, reason, message, now.wall));
            }
        }
    }

    fn collected(&mut self, fence: &Fence, collected: Collected, now: Now) {
        let Some(entry) = self.current(fence) else { return };
        let Stage::Collecting { execution } = &entry.stage else { return };
        let execution = execution.clone();
        let ExecutionState::Ended(end) = &execution.state else { return };
        self.write_last(&fence.run, |entry| finish::ended(entry, &execution, end, collected, now.wall));
    }

    /// Writes the last event of this attempt, after a `Running` write that is under way.
    pub(super) fn write_last(&mut self, uid: &RunUid, event: impl FnOnce(&Entry) -> RunEvent) {
        let Some(entry) = self.entries.get_mut(uid) else { return };
        let event = Box::new(event(entry));
        entry.stage = Stage::Writing { event: event.clone() };
        let fence = entry.fence.clone();
        match (&entry.run, entry.writing) {
            (_, Some(_)) => self.out.push(Action::HurryWrite { fence }),
            (Some(run), None) => {
                entry.writing = Some(Writing::Last);
                self.out.push(Action::Write { fence, run: Arc::clone(run), event });
            }
            (None, None) => self.release(uid, false),
        }
    }

    fn written(&mut self, fence: &Fence, outcome: Written) {
        let Some(entry) = self.current(fence) else { return };
        let kind = entry.writing.take();
        let stays = match outcome {
            Written::Applied(run) => {
                entry.run = Some(run);
                true
            }
            Written::Abandoned => true,
            Written::Refused(_) => {
                self.out.push(Action::CountStale);
                false
            }
            Written::Gone => false,
        };
        match kind {
            Some(Writing::Last) => self.release(&fence.run, false),
            Some(Writing::Started) => self.after_started(&fence.run, stays),
            None => {}
        }
    }

    fn after_started(&mut self, uid: &RunUid, stays: bool) {
        let Some(entry) = self.entries.get_mut(uid) else { return };
        if let Stage::Writing { event } = &entry.stage {
            if let Some(run) = &entry.run {
                entry.writing = Some(Writing::Last);
                let write =
                    Action::Write { fence: entry.fence.clone(), run: Arc::clone(run), event: event.clone() };
                self.out.push(write);
            }
        } else if !stays {
            self.revoke(uid);
        }
    }

    pub(super) fn gone(&mut self, uid: &RunUid) {
        self.ended.remove(uid);
        if let Some(entry) = self.entries.get_mut(uid) {
            entry.left = true;
            entry.next = None;
            self.revoke(uid);
        }
    }

    /// The Run is not ours any more: end the attempt and write nothing.
    pub(super) fn revoke(&mut self, uid: &RunUid) {
        let Some(entry) = self.entries.get(uid) else { return };
        match entry.stage {
            // Our own last write may be what took it from us.
            Stage::Writing { .. } | Stage::Releasing => return,
            Stage::Preparing => self.out.push(Action::Abort { fence: entry.fence.clone() }),
            Stage::Waiting | Stage::Executing { .. } | Stage::Running | Stage::Collecting { .. } => {}
        }
        self.release(uid, true);
    }

    pub(super) fn release(&mut self, uid: &RunUid, cancel: bool) {
        let Some(entry) = self.entries.get_mut(uid) else { return };
        let executed = entry.may_run();
        let cancel = (cancel || entry.unsure) && executed;
        let usage = entry.record_of_usage();
        entry.stage = Stage::Releasing;
        let (fence, run) = (entry.fence.clone(), entry.run.clone());
        if entry.writing.is_some() {
            self.out.push(Action::HurryWrite { fence: fence.clone() });
        }
        self.out.push(Action::Release { fence, run, usage, executed, cancel });
    }

    fn released(&mut self, fence: &Fence, now: Now) {
        if self.current(fence).is_none_or(|entry| !matches!(entry.stage, Stage::Releasing)) {
            return;
        }
        let Some(entry) = self.entries.remove(&fence.run) else { return };
        if entry.run.is_some() && !entry.left {
            self.ended.insert(fence.run.clone(), fence.assignment);
        }
        let next = entry.next;
        let theirs = self.server.as_mut().and_then(|server| server.known.remove(&fence.run));
        match theirs.and_then(|execution| execution.fence(&fence.run)).filter(|theirs| theirs != fence) {
            Some(other) => self.clear(other, next, now),
            None => {
                if let Some(run) = next {
                    self.seen(run, now);
                }
            }
        }
    }

    pub(super) fn stop(&mut self, uid: &RunUid, stop: Stop, now: Now) {
        let Some(entry) = self.entries.get_mut(uid) else { return };
        if entry.stop.is_some() || !entry.is_unfinished() {
            return;
        }
        entry.stop = Some(stop);
        let fence = entry.fence.clone();
        match &entry.stage {
            Stage::Waiting if entry.may_run() => return,
            Stage::Preparing => self.out.push(Action::Abort { fence }),
            Stage::Running => return self.cancel_if_wished(uid),
            Stage::Executing { retry_at, .. } if retry_at.is_none() || entry.unsure => {
                return self.cancel_if_wished(uid);
            }
            _ => {}
        }
        self.write_last(uid, |entry| finish::unstarted(entry, stop, now.wall));
    }

    pub(super) fn cancel_if_wished(&mut self, uid: &RunUid) {
        let Some(entry) = self.entries.get(uid) else { return };
        if let Some(stop) = entry.stop {
            let (fence, cause) = (entry.fence.clone(), stop.cause());
            self.out.push(Action::Cancel { fence, cause, grace: self.settings.grace });
        }
    }

    fn start_drain(&mut self, until: Instant, end_started: bool, now: Now) {
        self.drain = Some(Drain { until, end_started });
        let uids: Vec<RunUid> = self.entries.keys().cloned().collect();
        for uid in uids {
            self.stop_unsent(&uid, now);
            self.decide(&uid, now);
        }
    }

    /// Hands back what the server never had.
    fn stop_unsent(&mut self, uid: &RunUid, now: Now) {
        let Some(entry) = self.entries.get(uid) else { return };
        match &entry.stage {
            Stage::Waiting if !entry.may_run() => self.stop(uid, Stop::Draining, now),
            Stage::Preparing | Stage::Executing { retry_at: Some(_), .. } => {
                self.stop(uid, Stop::Draining, now)
            }
            _ => {}
        }
    }

    fn timers(&mut self, now: Now) {
        let drained = self.drain.is_some_and(|drain| drain.end_started && drain.until <= now.mono);
        let due: Vec<RunUid> = self
            .entries
            .iter()
            .filter(|(_, entry)| {
                let ends = drained && entry.stop.is_none() && entry.is_unfinished();
                ends || entry.due().is_some_and(|at| at <= now.mono)
            })
            .map(|(uid, _)| uid.clone())
            .collect();
        for uid in due {
            self.timer(&uid, drained, now);
        }
    }

    fn timer(&mut self, uid: &RunUid, drained: bool, now: Now) {
        let passed = |at: Option<Instant>| at.is_some_and(|at| at <= now.mono);
        let Some(entry) = self.entries.get_mut(uid) else { return };
        if let Some(started) = &mut entry.started
            && let (Announce::At(at), Stage::Running, None, Some(run)) =
                (started.announce, &entry.stage, entry.writing, &entry.run)
            && at <= now.mono
        {
            started.announce = Announce::Done;
            entry.writing = Some(Writing::Started);
            let (fence, devices) = (entry.fence.clone(), entry.devices.clone());
            let event = Box::new(RunEvent::Started { fence, at: started.at, devices });
            self.out.push(Action::Write { fence: entry.fence.clone(), run: Arc::clone(run), event });
        }
        if let Stage::Executing { prepared, retry_at, .. } = &entry.stage
            && passed(*retry_at)
        {
            let prepared = prepared.clone();
            self.send(uid, prepared, now);
        }
        let Some(entry) = self.entries.get(uid) else { return };
        let late = entry.late().filter(|(at, _)| *at <= now.mono).map(|(_, stop)| stop);
        if let Some(stop) = late.or(drained.then_some(Stop::Draining)) {
            self.stop(uid, stop, now);
        }
    }

    pub(super) fn current(&mut self, fence: &Fence) -> Option<&mut Entry> {
        let found = self.entries.get_mut(&fence.run).filter(|entry| entry.fence == *fence);
        if found.is_none() {
            self.out.push(Action::CountStale);
        }
        found
    }
}

fn uid_of(run: &Run) -> RunUid {
    RunUid::from(run.metadata.uid.as_deref().unwrap_or_default())
}
