//! The state of one container of a Pod, from its first start to its last end.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::object::{self, list, text};

/// Pauses before restarts: 1 s, doubled each time, at most 30 s; forgotten after a good minute.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
const STEADY: Duration = Duration::from_secs(60);

/// How long a container that cannot be started (no image, no secret) waits for the next try.
const CONFIG_RETRY: Duration = Duration::from_secs(10);

/// What a running container is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    Terminate,
    Kill,
}

/// How a start of a container ended.
#[derive(Debug, Clone)]
pub struct End {
    pub code: i32,
    pub reason: &'static str,
    pub message: String,
    pub started: Timestamp,
    pub finished: Timestamp,
}

/// What the container is doing.
#[derive(Debug)]
pub enum State {
    Waiting { reason: &'static str, message: String },
    Running(Running),
    Ended(End),
}

/// A running start.
#[derive(Debug)]
pub struct Running {
    pub started: Timestamp,
    pub since: Instant,
    pub orders: mpsc::UnboundedSender<Order>,
    /// Ends the probes of this start.
    pub probes: CancellationToken,
    /// Whether the startup probe has succeeded, or there is none.
    pub up: bool,
    pub ready: bool,
    /// Why the liveness or startup probe had it killed.
    pub killed_for: Option<String>,
}

/// One container.
#[derive(Debug)]
pub struct Slot {
    pub spec: Value,
    pub init: bool,
    pub state: State,
    pub last: Option<End>,
    /// Starts after the first.
    pub restarts: u32,
    /// Whether it was ever started, in this or a former life of the platform.
    pub ever: bool,
    backoff: Duration,
    pub retry_at: Option<Instant>,
}

impl Slot {
    /// A container as the Pod's status left it. A start that was running when a former platform ended
    /// counts as ended by force.
    pub fn recover(spec: &Value, init: bool, status: Option<&Value>) -> Self {
        let time = |pointer: &str| {
            status.map(|s| text(s, pointer)).and_then(|t| t.parse().ok()).unwrap_or_else(Timestamp::now)
        };
        let mut slot = Self {
            spec: spec.clone(),
            init,
            state: State::Waiting {
                reason: if init { "PodInitializing" } else { "ContainerCreating" },
                message: String::new(),
            },
            last: None,
            restarts: status.and_then(|s| s["restartCount"].as_u64()).unwrap_or(0) as u32,
            ever: false,
            backoff: BACKOFF.0,
            retry_at: None,
        };
        let Some(status) = status else { return slot };
        let end = |member: &str| {
            let end = status.pointer(&format!("/{member}/terminated"))?;
            let code = end["exitCode"].as_i64().unwrap_or(0) as i32;
            Some(End {
                code,
                reason: if code == 0 { "Completed" } else { "Error" },
                message: text(end, "/message").to_owned(),
                started: time(&format!("/{member}/terminated/startedAt")),
                finished: time(&format!("/{member}/terminated/finishedAt")),
            })
        };
        slot.last = end("lastState");
        slot.ever = slot.last.is_some();
        if status.pointer("/state/running").is_some() {
            let started = time("/state/running/startedAt");
            let message = "the local platform ended while the container ran".to_owned();
            slot.last =
                Some(End { code: 137, reason: "Error", message, started, finished: Timestamp::now() });
            slot.ever = true;
        } else if let Some(end) = end("state") {
            slot.ever = true;
            slot.state = State::Ended(end);
        }
        slot
    }

    pub fn name(&self) -> &str {
        text(&self.spec, "/name")
    }

    pub fn running(&self) -> Option<&Running> {
        if let State::Running(running) = &self.state { Some(running) } else { None }
    }

    pub fn running_mut(&mut self) -> Option<&mut Running> {
        if let State::Running(running) = &mut self.state { Some(running) } else { None }
    }

    pub fn ready(&self) -> bool {
        match &self.state {
            State::Running(running) => running.up && running.ready,
            State::Ended(end) => self.init && end.code == 0,
            State::Waiting { .. } => false,
        }
    }

    /// Tells the running start something; one that has just ended needs it no more.
    pub fn order(&self, order: Order) {
        if let Some(running) = self.running() {
            let _ = running.orders.send(order);
        }
    }

    /// It has ended. `again` says whether it will be started once more; answers the pause before that.
    pub fn ended(&mut self, code: i32, again: bool) -> Option<Duration> {
        let State::Running(running) = &mut self.state else { return None };
        running.probes.cancel();
        let reason = match code {
            0 => "Completed",
            _ => "Error",
        };
        let message = running.killed_for.take().unwrap_or_default();
        let end = End { code, reason, message, started: running.started, finished: Timestamp::now() };
        if running.since.elapsed() >= STEADY {
            self.backoff = BACKOFF.0;
        }
        if !again {
            self.state = State::Ended(end);
            return None;
        }
        let pause = self.backoff;
        self.backoff = (self.backoff * 2).min(BACKOFF.1);
        self.last = Some(end);
        self.retry_at = Some(Instant::now() + pause);
        let message = format!("back-off {}s restarting failed container={}", pause.as_secs(), self.name());
        self.state = State::Waiting { reason: "CrashLoopBackOff", message };
        Some(pause)
    }

    /// It cannot be started now.
    pub fn refused(&mut self, reason: &'static str, message: String) {
        self.retry_at = Some(Instant::now() + CONFIG_RETRY);
        self.state = State::Waiting { reason, message };
    }

    /// Its entry in `containerStatuses`.
    pub fn status(&self) -> Value {
        let ended = |end: &End| {
            json!({"terminated": {
                "exitCode": end.code, "reason": end.reason, "message": end.message,
                "startedAt": object::seconds(end.started), "finishedAt": object::seconds(end.finished),
            }})
        };
        let state = match &self.state {
            State::Waiting { reason, message } => json!({"waiting": {"reason": reason, "message": message}}),
            State::Running(running) => json!({"running": {"startedAt": object::seconds(running.started)}}),
            State::Ended(end) => ended(end),
        };
        let image = text(&self.spec, "/image");
        json!({
            "name": self.name(), "image": image, "imageID": image, "ready": self.ready(),
            "started": self.running().is_some_and(|r| r.up), "restartCount": self.restarts,
            "state": state, "lastState": self.last.as_ref().map_or(json!({}), ended),
        })
    }
}

/// The containers of a Pod, the init containers first.
pub fn recover_all(pod: &Value) -> Vec<Slot> {
    let of = |specs: &str, statuses: &str, init: bool| -> Vec<Slot> {
        list(pod, specs)
            .iter()
            .map(|spec| {
                let status = list(pod, statuses).iter().find(|s| s["name"] == spec["name"]);
                Slot::recover(spec, init, status)
            })
            .collect()
    };
    let mut slots = of("/spec/initContainers", "/status/initContainerStatuses", true);
    slots.extend(of("/spec/containers", "/status/containerStatuses", false));
    slots
}
