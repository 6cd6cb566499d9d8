//! The machine's side that faces the Runtime Server.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kruntimes_api::Reason;
use kruntimes_api::run::Run;
use kruntimes_core::ids::{Fence, RunUid};
use kruntimes_core::run::State;

use super::entry::{Entry, Stage, Stop};
use super::machine::{Engine, Server};
use super::recover::{Plan, plan};
use super::{Action, ExecuteFailure, Now, Prepared, finish};
use crate::server::{Execution, ExecutionState, Instance};

/// Between two tries of Execute on an unavailable server.
const RETRY: Duration = Duration::from_millis(250);
/// Not offered to a Pod again before this time when a server had no room.
const NO_ROOM_DELAY: Duration = Duration::from_secs(1);

impl Engine {
    /// What no Run of ours owns: executions and workspaces of an earlier life.
    pub(super) fn clear_orphans(&mut self, now: Now) {
        let Some(server) = self.server.as_ref().filter(|_| self.synced) else { return };
        let mut orphans: BTreeMap<RunUid, Fence> = BTreeMap::new();
        for (uid, record) in &self.journal {
            let fence = Fence { run: uid.clone(), attempt: record.attempt, assignment: record.assignment };
            orphans.insert(uid.clone(), fence);
        }
        for (uid, execution) in &server.known {
            let unknown = Fence { run: uid.clone(), attempt: 0, assignment: 0 };
            orphans.insert(uid.clone(), execution.fence(uid).unwrap_or(unknown));
        }
        for (uid, fence) in orphans {
            if self.entries.contains_key(&uid) {
                continue;
            }
            self.journal.remove(&uid);
            self.clear(fence, None, now);
        }
    }

    /// Ends and removes what no Run of ours owns, then begins `next`.
    pub(super) fn clear(&mut self, fence: Fence, next: Option<Arc<Run>>, now: Now) {
        let mut orphan = Entry::orphan(fence.clone(), now);
        orphan.next = next;
        self.entries.insert(fence.run.clone(), orphan);
        self.out.push(Action::Release { fence, run: None, usage: None, executed: true, cancel: true });
    }

    /// Goes on with a Run that waits, if the server is there to say what it knows.
    pub(super) fn decide(&mut self, uid: &RunUid, now: Now) {
        let Some(entry) = self.entries.get_mut(uid).filter(|entry| matches!(entry.stage, Stage::Waiting))
        else {
            return;
        };
        let Some(server) = &self.server else {
            if self.drain.is_some_and(|drain| drain.end_started) && entry.may_run() {
                self.write_last(uid, |entry| finish::terminated(entry, now.wall));
            }
            return;
        };
        let Some(Ok(state)) = entry.run.as_deref().map(State::of) else { return };
        let fence = entry.fence.clone();
        match plan(&state, entry.confirmed, &fence, &entry.record, &server.instance, server.known.get(uid)) {
            Plan::Begin => {
                if let Some(stop) = entry.stop {
                    return self.write_last(uid, |entry| finish::unstarted(entry, stop, now.wall));
                }
                entry.stage = Stage::Preparing;
                entry.prepare_by = entry.timeout().and_then(|timeout| now.mono.checked_add(timeout));
                self.out.push(Action::Prepare { fence, spec: Arc::clone(&entry.spec) });
            }
            Plan::Adopt(execution) => {
                entry.record.sent_to = Some(server.instance.clone());
                self.accepted(uid);
                self.cancel_if_wished(uid);
                self.progress(uid, &execution, now);
            }
            Plan::Ask => self.out.push(Action::Ask { fence }),
            Plan::Resend(prepared) => self.send(uid, prepared, now),
            Plan::Lost(why) => self.lost(uid, why, now),
            Plan::Clear(older) => {
                let run = entry.run.take();
                self.clear(older, run, now);
            }
            Plan::OutOfDate => {
                self.entries.remove(uid);
                self.out.push(Action::CountStale);
            }
        }
    }

    pub(super) fn server_up(&mut self, instance: Instance, executions: Vec<Execution>, now: Now) {
        let known = executions.into_iter().map(|execution| (execution.id.clone(), execution)).collect();
        self.server = Some(Server { instance, known });
        self.review(now);
        self.clear_orphans(now);
    }

    pub(super) fn server_down(&mut self, now: Now) {
        self.server = None;
        self.review(now);
    }

    /// What the server had is looked at anew: the same rule as after our own restart.
    fn review(&mut self, now: Now) {
        let uids: Vec<RunUid> = self.entries.keys().cloned().collect();
        for uid in uids {
            if let Some(entry) = self.entries.get_mut(&uid)
                && matches!(entry.stage, Stage::Running)
            {
                entry.stage = Stage::Waiting;
            }
            self.decide(&uid, now);
        }
    }

    pub(super) fn execution(&mut self, execution: Execution, now: Now) {
        let Some(server) = &mut self.server else { return };
        let uid = execution.id.clone();
        server.known.insert(uid.clone(), execution.without_tails());
        let Some(entry) = self.entries.get_mut(&uid) else { return };
        if execution.fence(&uid).is_some_and(|theirs| theirs != entry.fence) {
            return self.out.push(Action::CountStale);
        }
        match entry.stage {
            Stage::Waiting => self.decide(&uid, now),
            Stage::Executing { .. } => {
                self.accepted(&uid);
                self.progress(&uid, &execution, now);
            }
            Stage::Running => self.progress(&uid, &execution, now),
            _ => {}
        }
    }

    /// The server has it: from now on its output is followed.
    fn accepted(&mut self, uid: &RunUid) {
        let Some(entry) = self.entries.get_mut(uid) else { return };
        entry.stage = Stage::Running;
        entry.confirmed = true;
        entry.unsure = false;
        if let Some(run) = &entry.run {
            self.out.push(Action::Follow { fence: entry.fence.clone(), run: Arc::clone(run) });
        }
    }

    /// As [`Self::accepted`], with what the server may have said of it before it answered.
    fn accepted_now(&mut self, uid: &RunUid, now: Now) {
        self.accepted(uid);
        let (Some(server), Some(entry)) = (&self.server, self.entries.get(uid)) else { return };
        let said = server.known.get(uid).filter(|said| said.fence(uid).as_ref() == Some(&entry.fence));
        if let Some(said) = said.cloned() {
            self.progress(uid, &said, now);
        }
    }

    fn progress(&mut self, uid: &RunUid, execution: &Execution, now: Now) {
        let Some(entry) = self.entries.get_mut(uid) else { return };
        if execution.usage.is_some() {
            entry.usage.clone_from(&execution.usage);
        }
        if !execution.devices.is_empty() {
            entry.devices.clone_from(&execution.devices);
        }
        match &execution.state {
            ExecutionState::Pending => {}
            ExecutionState::Running => {
                entry.mark_started(execution.started_at.unwrap_or(now.wall), now, self.settings.window);
            }
            ExecutionState::Ended(_) => {
                let execution = Box::new(execution.clone());
                self.out.push(Action::Collect { fence: entry.fence.clone(), execution: execution.clone() });
                entry.stage = Stage::Collecting { execution };
            }
        }
    }

    pub(super) fn missing(&mut self, uid: &RunUid, now: Now) {
        if let Some(server) = &mut self.server {
            server.known.remove(uid);
        }
        let had = |entry: &Entry| matches!(entry.stage, Stage::Running | Stage::Waiting) && entry.may_run();
        if self.entries.get(uid).is_some_and(had) {
            self.lost(uid, "the Runtime Server no longer knows this execution", now);
        }
    }

    /// Sends Execute now, or as soon as there is a server.
    pub(super) fn send(&mut self, uid: &RunUid, prepared: Prepared, now: Now) {
        let Some(entry) = self.entries.get_mut(uid) else { return };
        let since = match &entry.stage {
            Stage::Executing { since, .. } => *since,
            _ => now.mono,
        };
        if entry.unsure
            && self
                .server
                .as_ref()
                .is_some_and(|server| entry.record.sent_to.as_ref() != Some(&server.instance))
        {
            return self.lost(
                uid,
                "the Runtime Server was restarted while it may have had this execution",
                now,
            );
        }
        let (Some(server), Some(run)) = (&self.server, &entry.run) else {
            entry.stage = Stage::Executing { prepared, since: now.mono, retry_at: Some(now.mono + RETRY) };
            return;
        };
        entry.record.sent_to = Some(server.instance.clone());
        entry.record.subfolder.clone_from(&prepared.subfolder);
        entry.record.resolved_sha.clone_from(&prepared.resolved_sha);
        self.out.push(Action::Execute {
            fence: entry.fence.clone(),
            run: Arc::clone(run),
            spec: Arc::clone(&entry.spec),
            prepared: prepared.clone(),
            instance: server.instance.clone(),
        });
        entry.stage = Stage::Executing { prepared, since, retry_at: None };
        self.cancel_if_wished(uid);
    }

    pub(super) fn executed(&mut self, fence: &Fence, result: Result<(), ExecuteFailure>, now: Now) {
        let (patience, draining) = (self.settings.patience, self.drain.is_some());
        let Some(entry) = self.current(fence) else { return };
        let Stage::Executing { since, retry_at, .. } = &mut entry.stage else { return };
        let failure = match result {
            Ok(()) => return self.accepted_now(&fence.run.clone(), now),
            Err(failure) => failure,
        };
        let uid = &fence.run;
        if let ExecuteFailure::Unknown(_) = failure {
            // It may run: only the server can tell.
            entry.unsure = true;
            entry.stage = Stage::Waiting;
            return self.decide(uid, now);
        }
        let since = *since;
        let unavailable = matches!(failure, ExecuteFailure::Unavailable(_));
        if !entry.unsure {
            entry.record.sent_to = None;
        }
        if unavailable && now.mono.duration_since(since) < patience && !draining && entry.stop.is_none() {
            *retry_at = Some(now.mono + RETRY);
            return;
        }
        if unavailable && entry.unsure {
            return self.lost(uid, "the Runtime Server does not say whether it has this execution", now);
        }
        if let Some(stop) = entry.stop {
            return self.write_last(uid, |entry| finish::unstarted(entry, stop, now.wall));
        }
        self.write_last(uid, |entry| match failure {
            ExecuteFailure::NoRoom(message) => finish::hand_back(entry, &message, NO_ROOM_DELAY),
            ExecuteFailure::Unavailable(message) => finish::hand_back(entry, &message, NO_ROOM_DELAY),
            ExecuteFailure::Invalid(message) => {
                finish::without_end(entry, Reason::InvalidRun, message, now.wall)
            }
            ExecuteFailure::Rejected(message) | ExecuteFailure::Unknown(message) => {
                let message = format!("runtime Execute: {message}");
                finish::without_end(entry, Reason::ServerRejected, message, now.wall)
            }
        });
    }

    fn lost(&mut self, uid: &RunUid, why: &str, now: Now) {
        let draining = self.drain.is_some_and(|drain| drain.end_started);
        self.write_last(uid, |entry| match entry.stop {
            // Its end was wished for and it is gone; nothing else is worth saying.
            Some(stop @ (Stop::Cancelled | Stop::Suspended)) => finish::unstarted(entry, stop, now.wall),
            _ if draining => finish::terminated(entry, now.wall),
            _ => finish::without_end(entry, Reason::ServerLost, why.into(), now.wall),
        });
    }
}
