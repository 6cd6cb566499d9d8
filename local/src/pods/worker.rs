//! One Pod: starts its containers in order, watches them, restarts them, ends them, tells its status.
//!
//! One loop, one kind of [`Event`]; everything slow (a process, a probe) runs in a task of its own and
//! reports here.

use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::container::{Launch, Output, Process};
use super::environment::{self, Given};
use super::notes::note;
use super::probe::{Probe, Purpose};
use super::runner::Shared;
use super::slot::{Order, Running, Slot, State, recover_all};
use super::{pod_ip, status, volumes};
use crate::api::DeleteOptions;
use crate::api::errors::ApiError;
use crate::credentials::write_private;
use crate::object::{self, text};
use crate::store::{Entry, Key};

/// Which start of which container an event is about; events of earlier starts are dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Start {
    pub slot: usize,
    pub number: u32,
}

/// What happens to a Pod.
#[derive(Debug)]
pub enum Event {
    Ended { start: Start, code: i32 },
    Probed { start: Start, purpose: Purpose, healthy: bool, why: Option<String> },
}

/// What the runner tells a worker; the newest word counts.
#[derive(Debug, Clone)]
pub enum Word {
    /// The Pod as it is now.
    Pod(Arc<Entry>),
    /// The object is gone: end everything at once.
    Gone,
    /// The platform ends: TERM now, KILL after this time; the object stays.
    Stop(Duration),
}

/// Why the containers are being ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    Deleted,
    Gone,
    Stopped,
}

pub struct Worker {
    shared: Arc<Shared>,
    pod: Value,
    key: Key,
    uid: String,
    ip: Ipv4Addr,
    folder: PathBuf,
    slots: Vec<Slot>,
    words: watch::Receiver<Word>,
    deaf: bool,
    events: (mpsc::UnboundedSender<Event>, mpsc::UnboundedReceiver<Event>),
    ending: Option<Ending>,
    kill_at: Option<Instant>,
    started: String,
}

impl Worker {
    pub fn new(shared: Arc<Shared>, entry: &Entry, words: watch::Receiver<Word>) -> Self {
        let pod = entry.value();
        Self {
            ip: pod_ip(&entry.uid),
            folder: shared.config.pods_dir.join(&entry.uid),
            slots: recover_all(&pod),
            key: entry.key.clone(),
            uid: entry.uid.clone(),
            pod,
            shared,
            words,
            deaf: false,
            events: mpsc::unbounded_channel(),
            ending: None,
            kill_at: None,
            started: object::now(),
        }
    }

    /// Runs the Pod until it is gone or the platform stops.
    pub async fn run(mut self) {
        if let Err(why) = fs::create_dir_all(&self.folder) {
            tracing::error!(%why, folder = %self.folder.display(), "cannot make a pod's folder");
        }
        self.words.mark_changed();
        loop {
            if self.settle().await {
                return;
            }
            let timer = self.slots.iter().filter_map(|s| s.retry_at).chain(self.kill_at).min();
            tokio::select! {
                changed = self.words.changed(), if !self.deaf => match changed {
                    Ok(()) => {
                        let word = self.words.borrow_and_update().clone();
                        self.hear(word);
                    }
                    // The runner has said its last word.
                    Err(_) => self.deaf = true,
                },
                Some(event) = self.events.1.recv() => self.handle(event).await,
                () = sleep_until(timer) => self.tick(),
            }
        }
    }

    fn hear(&mut self, word: Word) {
        match word {
            Word::Pod(entry) => {
                self.pod = entry.value();
                if entry.deleting {
                    let grace =
                        self.pod.pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_u64);
                    self.end(Ending::Deleted, Duration::from_secs(grace.unwrap_or(30)));
                }
            }
            Word::Gone => self.end(Ending::Gone, Duration::ZERO),
            Word::Stop(grace) => self.end(Ending::Stopped, grace),
        }
    }

    /// Sends TERM to every container at once and sets the time of the KILL; a shorter time later on holds.
    fn end(&mut self, ending: Ending, grace: Duration) {
        let first = self.ending.is_none();
        if first || ending == Ending::Gone {
            self.ending = Some(ending);
        }
        for slot in &mut self.slots {
            slot.retry_at = None;
            if let Some(running) = slot.running() {
                running.probes.cancel();
            }
            if first && !grace.is_zero() {
                slot.order(Order::Terminate);
            }
        }
        let at = Instant::now() + grace;
        self.kill_at = Some(self.kill_at.map_or(at, |before| before.min(at)));
    }

    fn tick(&mut self) {
        let now = Instant::now();
        if self.kill_at.is_some_and(|at| at <= now) {
            self.kill_at = None;
            self.slots.iter().for_each(|s| s.order(Order::Kill));
        }
    }

    async fn handle(&mut self, event: Event) {
        match event {
            Event::Ended { start, code } if self.is_now(start) => self.ended(start.slot, code).await,
            Event::Probed { start, purpose, healthy, why } if self.is_now(start) => {
                self.probed(start, purpose, healthy, why).await;
            }
            // Of an earlier start.
            Event::Ended { .. } | Event::Probed { .. } => {}
        }
    }

    fn is_now(&self, start: Start) -> bool {
        self.slots[start.slot].restarts == start.number && self.slots[start.slot].running().is_some()
    }

    async fn ended(&mut self, index: usize, code: i32) {
        let again = self.ending.is_none() && restarts(&self.pod, &self.slots[index], code);
        let slot = &mut self.slots[index];
        if let Some(pause) = slot.ended(code, again) {
            let message = format!(
                "container {} ended with code {code}; started again in {}s",
                slot.name(),
                pause.as_secs()
            );
            note(&self.shared.api, &self.pod, true, "BackOff", &message, Some(slot.name())).await;
        }
    }

    async fn probed(&mut self, start: Start, purpose: Purpose, healthy: bool, why: Option<String>) {
        let why = why.unwrap_or_default();
        let slot = &mut self.slots[start.slot];
        let name = slot.name().to_owned();
        let Some(running) = slot.running_mut() else { return };
        match (purpose, healthy) {
            (Purpose::Readiness, _) => running.ready = healthy,
            (Purpose::Startup, true) => {
                running.up = true;
                self.start_probes(start);
            }
            (Purpose::Liveness, true) => {}
            (Purpose::Startup | Purpose::Liveness, false) => {
                if running.killed_for.is_none() {
                    running.killed_for = Some(format!("{} failed: {why}", purpose.member()));
                    self.kill_for_probe(start).await;
                }
            }
        }
        if !healthy {
            let message = format!("{} failed: {why}", purpose.member());
            note(&self.shared.api, &self.pod, true, "Unhealthy", &message, Some(&name)).await;
        }
    }

    /// TERM, and KILL after the Pod's grace period, for one container.
    async fn kill_for_probe(&mut self, start: Start) {
        let slot = &self.slots[start.slot];
        let message = format!("Container {} failed a probe, will be restarted", slot.name());
        note(&self.shared.api, &self.pod, false, "Killing", &message, Some(slot.name())).await;
        slot.order(Order::Terminate);
        let grace = self.pod.pointer("/spec/terminationGracePeriodSeconds").and_then(Value::as_u64);
        let Some(running) = slot.running() else { return };
        let orders = running.orders.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = orders.closed() => {}
                () = tokio::time::sleep(Duration::from_secs(grace.unwrap_or(30))) => drop(orders.send(Order::Kill)),
            }
        });
    }

    /// Starts what is due and tells the status. True when the Pod needs no worker any more.
    async fn settle(&mut self) -> bool {
        if let Some(ending) = self.ending {
            if self.slots.iter().any(|s| s.running().is_some()) {
                if ending == Ending::Deleted {
                    self.publish().await;
                }
                return false;
            }
            return self.finish(ending).await;
        }
        let restarts_now = |s: &Slot, code: i32| restarts(&self.pod, s, code);
        if matches!(status::phase(&self.slots, restarts_now), "Succeeded" | "Failed") {
            self.slots.iter_mut().for_each(|s| s.retry_at = None);
        } else {
            for index in self.due() {
                self.start(index).await;
            }
        }
        self.publish().await;
        false
    }

    /// The containers to start now: the next init container, or, after all of them, every other one.
    fn due(&self) -> Vec<usize> {
        let now = Instant::now();
        let may = |slot: &Slot| match &slot.state {
            State::Waiting { .. } => slot.retry_at.is_none_or(|at| at <= now),
            State::Ended(end) => restarts(&self.pod, slot, end.code),
            State::Running(_) => false,
        };
        match self.slots.iter().position(|s| s.init && !s.ready()) {
            Some(next) => Some(next).filter(|i| may(&self.slots[*i])).into_iter().collect(),
            None => (0..self.slots.len()).filter(|i| !self.slots[*i].init && may(&self.slots[*i])).collect(),
        }
    }

    async fn start(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        slot.retry_at = None;
        if let State::Ended(end) = &slot.state {
            slot.last = Some(end.clone());
        }
        let name = slot.name().to_owned();
        let spec = slot.spec.clone();
        let number = slot.restarts + u32::from(slot.ever);
        let launch = match self.launch(&spec) {
            Ok(launch) => launch,
            Err((reason, message)) => {
                let fresh =
                    !matches!(&self.slots[index].state, State::Waiting { message: m, .. } if *m == message);
                if fresh {
                    note(&self.shared.api, &self.pod, true, "Failed", &message, Some(&name)).await;
                }
                return self.slots[index].refused(reason, message);
            }
        };
        let process = self
            .shared
            .api
            .logs
            .writer(&self.uid, &name, number)
            .and_then(|log| launch.start(Output::Log(log)));
        let process = match process {
            Ok(process) => process,
            Err(why) => {
                return self.slots[index]
                    .refused("CreateContainerError", format!("cannot start the container: {why}"));
            }
        };
        let start = Start { slot: index, number };
        let (orders, inbox) = mpsc::unbounded_channel();
        tokio::spawn(attend(process, inbox, start, self.events.0.clone()));
        let slot = &mut self.slots[index];
        slot.restarts = number;
        slot.ever = true;
        slot.state = State::Running(Running {
            started: Timestamp::now(),
            since: Instant::now(),
            orders,
            probes: CancellationToken::new(),
            up: spec.get(Purpose::Startup.member()).is_none(),
            ready: spec.get(Purpose::Readiness.member()).is_none(),
            killed_for: None,
        });
        self.start_probes(start);
        note(
            &self.shared.api,
            &self.pod,
            false,
            "Started",
            &format!("Started container {name}"),
            Some(&name),
        )
        .await;
    }

    /// The startup probe first; when it has succeeded, or is none, the others.
    fn start_probes(&self, start: Start) {
        let slot = &self.slots[start.slot];
        let Some(running) = slot.running() else { return };
        let Ok(launch) = self.launch(&slot.spec) else { return };
        let purposes: &[_] =
            if running.up { &[Purpose::Readiness, Purpose::Liveness] } else { &[Purpose::Startup] };
        for purpose in purposes {
            if let Some(probe) = Probe::of(&slot.spec, *purpose, self.ip, &launch) {
                tokio::spawn(probe.run(start, self.events.0.clone(), running.probes.clone()));
            }
        }
    }

    /// How to start a container, or the reason and sentence for why not.
    fn launch(&self, container: &Value) -> Result<Launch, (&'static str, String)> {
        let config = &self.shared.config;
        let image = config.images.program(text(container, "/image")).map_err(|why| ("ErrImagePull", why))?;
        let wrong = |why: String| ("CreateContainerConfigError", why);
        let token = &config.credentials.token;
        let mounts = volumes::prepare(&self.shared.api, &self.pod, container, &self.folder, token)
            .map_err(|e| wrong(e.to_string()))?;
        let kubeconfig = self.folder.join("kubeconfig");
        if mounts.iter().any(|m| m.token) {
            let content = config.credentials.kubeconfig(config.address, &self.key.namespace);
            write_private(&kubeconfig, content.to_string().as_bytes())
                .map_err(|e| wrong(format!("cannot write {}: {e}", kubeconfig.display())))?;
        }
        let given = Given { ip: self.ip, kubeconfig: &kubeconfig.display().to_string(), mounts: &mounts };
        let env = environment::variables(&self.shared.api, &self.pod, container, &given).map_err(wrong)?;
        let (program, args) = environment::command(container, &env, &mounts);
        let dir = match text(container, "/workingDir") {
            "" => self.folder.clone(),
            dir => PathBuf::from(volumes::real_path(dir, &mounts)),
        };
        Ok(Launch {
            init_program: config.init_program.clone(),
            lock: self.folder.join(format!("{}.lock", text(container, "/name"))),
            program: program.map_or_else(|| image.into_os_string(), Into::into),
            args,
            env,
            dir,
            mounts,
        })
    }

    async fn publish(&self) {
        let phase = status::phase(&self.slots, |s, code| restarts(&self.pod, s, code));
        let write = |pod: &mut Value| status::write(pod, &self.slots, phase, self.ip, &self.started);
        if let Err(why) = self.shared.api.change_status("pods", &self.key, &self.uid, write).await {
            tracing::warn!(%why, pod = self.key.name, "cannot write a pod's status");
        }
    }

    /// Nothing runs any more: lets the object go, and the folder with it.
    async fn finish(&mut self, ending: Ending) -> bool {
        if ending == Ending::Stopped {
            return true;
        }
        if ending == Ending::Deleted {
            let options = DeleteOptions {
                uid: Some(self.uid.clone()),
                grace_period: Some(0),
                ..DeleteOptions::default()
            };
            let kind = self.shared.api.kinds.core("pods");
            match self.shared.api.delete(kind, &self.key, &options).await {
                Ok(_) | Err(ApiError::NotFound { .. } | ApiError::Conflict { .. }) => {}
                Err(why) => tracing::warn!(%why, pod = self.key.name, "cannot remove a pod"),
            }
            // Finalizers may keep the object; this worker is done all the same.
        }
        self.shared.api.logs.forget(&self.uid);
        if let Err(why) = fs::remove_dir_all(&self.folder)
            && why.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(%why, folder = %self.folder.display(), "cannot remove a pod's folder");
        }
        true
    }
}

/// Whether the Pod's policy starts a container again that ended with `code`.
fn restarts(pod: &Value, slot: &Slot, code: i32) -> bool {
    match (text(pod, "/spec/restartPolicy"), slot.init) {
        ("Never", _) => false,
        ("OnFailure", _) | (_, true) => code != 0,
        _ => true,
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Waits for a process and passes orders to it.
async fn attend(
    mut process: Process,
    mut orders: mpsc::UnboundedReceiver<Order>,
    start: Start,
    events: mpsc::UnboundedSender<Event>,
) {
    loop {
        let order = tokio::select! {
            code = process.wait() => {
                // A worker that is gone has no use for it.
                let _ = events.send(Event::Ended { start, code });
                return;
            }
            order = orders.recv() => order,
        };
        match order {
            Some(Order::Terminate) => process.terminate(),
            Some(Order::Kill) | None => process.kill(),
        }
        if order.is_none() {
            process.wait().await;
            return;
        }
    }
}
