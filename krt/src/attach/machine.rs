//! What to do when a Run that somebody watches changes, prints, or is asked to end.
//!
//! Synchronous and total: events and the time in, actions out. The driver does them in order.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use kruntimes_api::{Phase, Reason, Run, RunStatus};
use kube::ResourceExt;

use super::logs::{Entry, Line, Stream};
use crate::render::age;

/// A Run that is still Pending after this time gets a word about why.
const PATIENCE: Duration = Duration::from_secs(1);
/// A Run about which the scheduler says nothing gets a word of krt's own after this time: the scheduler's first
/// explanation may itself take [`PATIENCE`] and a moment to arrive.
const SILENCE: Duration = Duration::from_secs(5);
/// Silence after which a log is taken as complete when nothing says so.
const DRAIN: Duration = Duration::from_secs(1);

/// Which lines are wanted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Filter {
    /// One stream only.
    pub stream: Option<Stream>,
    /// One attempt only.
    pub attempt: Option<i32>,
}

impl Filter {
    /// Whether `line` is wanted; a line that does not tell its attempt is.
    pub fn accepts(self, line: &Line) -> bool {
        self.stream.is_none_or(|stream| stream == line.stream)
            && self.attempt.is_none_or(|wanted| line.attempt.is_none_or(|attempt| attempt == wanted))
    }
}

/// How a Run is followed.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Lines to show.
    pub filter: Filter,
    /// The first interruption asks the Run to end; otherwise it ends the following only.
    pub cancels: bool,
}

/// What happens.
#[derive(Debug)]
pub enum Event {
    /// The Run is like this now.
    Run(Box<Run>),
    /// The Run does not exist any more.
    Absent,
    /// What the log of a Pod says.
    Log(Vec<Entry>),
    /// The log of a Pod cannot be read any more, in these words.
    LogClosed {
        /// Pod.
        pod: String,
        /// Why.
        why: String,
    },
    /// Ctrl-c, or a request to stop.
    Interrupt,
    /// A passing trouble, in words.
    Trouble(String),
    /// [`Machine::deadline`] is reached.
    Tick,
}

/// What to do.
#[derive(Debug, PartialEq)]
pub enum Action {
    /// Follow the log of this Pod, from a time before the Run was made.
    Open(String),
    /// Show.
    Write(Vec<Line>),
    /// Say.
    Note(String),
    /// Show as what is being waited for, or show nothing any more.
    Waiting(Option<String>),
    /// Ask for the Run's end.
    Cancel,
    /// Stop following.
    Done(Outcome),
}

/// Why the following ended.
#[derive(Debug, PartialEq)]
pub enum Outcome {
    /// The Run has ended, or is a function that takes calls.
    Ended {
        /// The last that was seen of it.
        run: Box<Run>,
        /// Nothing of its last attempt's output was seen, and its log is gone.
        log_gone: bool,
        /// The end of its output was not seen.
        cut_short: bool,
        /// Bytes of its output that were no longer in the log when it was read.
        lost: u64,
        /// It was asked to end from here.
        interrupted: bool,
    },
    /// The Run was deleted.
    Deleted,
    /// The person left.
    Left,
}

/// Follows one Run.
#[derive(Debug)]
pub struct Machine {
    options: Options,
    name: String,
    uid: String,
    began: Instant,
    run: Option<Box<Run>>,
    /// Pods whose logs were opened; false once closed.
    pods: BTreeMap<String, bool>,
    /// Ends of attempts that were seen, by attempt and bind.
    ended: BTreeSet<(i32, Option<i64>)>,
    shown: bool,
    /// Lines came that tell no attempt: this runtimed marks no end either.
    older: bool,
    lost: u64,
    last_line: Instant,
    terminal: Option<Instant>,
    interrupts: u32,
    told: Option<String>,
    troubles: BTreeSet<String>,
    done: bool,
}

impl Machine {
    /// Follows the Run `name` with the identity `uid` from now on.
    pub fn new(name: &str, uid: &str, options: Options, now: Instant) -> Self {
        Self {
            options,
            name: name.to_owned(),
            uid: uid.to_owned(),
            began: now,
            run: None,
            pods: BTreeMap::new(),
            ended: BTreeSet::new(),
            shown: false,
            older: false,
            lost: 0,
            last_line: now,
            terminal: None,
            interrupts: 0,
            told: None,
            troubles: BTreeSet::new(),
            done: false,
        }
    }

    /// Handles one event.
    pub fn handle(&mut self, event: Event, now: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.done {
            return actions;
        }
        match event {
            Event::Run(run) if run.uid().as_deref() != Some(self.uid.as_str()) => {
                self.end(Outcome::Deleted, &mut actions)
            }
            Event::Run(run) => self.seen(run, now, &mut actions),
            Event::Absent => self.end(Outcome::Deleted, &mut actions),
            Event::Log(entries) => self.read(entries, now, &mut actions),
            Event::LogClosed { pod, why } => {
                if self.pods.insert(pod.clone(), false) != Some(false) && self.terminal.is_none() {
                    actions.push(Action::Note(format!("the log of Pod {pod} cannot be read: {why}")));
                }
            }
            Event::Interrupt => self.interrupted(&mut actions),
            Event::Trouble(text) => {
                if self.troubles.insert(text.clone()) {
                    actions.push(Action::Note(text));
                }
            }
            Event::Tick => {}
        }
        if !self.done {
            self.explain_wait(now, &mut actions);
            self.finish(now, &mut actions);
        }
        actions
    }

    /// When to call [`Self::handle`] with [`Event::Tick`] if nothing happens.
    pub fn deadline(&self) -> Option<Instant> {
        if let Some(terminal) = self.terminal {
            return Some(terminal.max(self.last_line) + DRAIN);
        }
        (self.told.is_none() && self.phase() == Phase::Pending).then(|| self.began + self.patience())
    }

    /// How long after the beginning a Run that is Pending gets a word.
    fn patience(&self) -> Duration {
        if wait_text(self.run.as_deref()).is_some() { PATIENCE } else { SILENCE }
    }

    fn status(&self) -> Option<&RunStatus> {
        self.run.as_ref()?.status.as_ref()
    }

    fn phase(&self) -> Phase {
        self.status().and_then(|status| status.phase).unwrap_or_default()
    }

    fn end(&mut self, outcome: Outcome, actions: &mut Vec<Action>) {
        self.done = true;
        actions.push(Action::Waiting(None));
        actions.push(Action::Done(outcome));
    }

    fn seen(&mut self, run: Box<Run>, now: Instant, actions: &mut Vec<Action>) {
        let status = run.status.clone().unwrap_or_default();
        let before = self.status().cloned().unwrap_or_default();
        if let Some(text) = retry_note(&before, &status) {
            actions.push(Action::Note(text));
        }
        if status.assignment != before.assignment {
            // The same attempt may be bound again after a hand-back: its former end says nothing of the new one.
            self.ended.retain(|(_, assignment)| assignment.is_some());
        }
        let phase = status.phase.unwrap_or_default();
        if let Some(pod) = status.assigned_pod.clone().filter(|pod| !pod.is_empty())
            && !self.pods.contains_key(&pod)
        {
            self.pods.insert(pod.clone(), true);
            actions.push(Action::Open(pod));
        }
        if phase != Phase::Pending && before.phase.unwrap_or_default() == Phase::Pending {
            self.told = None;
            actions.push(Action::Waiting(None));
        }
        if (phase.is_terminal() || phase == Phase::Ready) && self.terminal.is_none() {
            self.terminal = Some(now);
        }
        self.run = Some(run);
    }

    fn read(&mut self, entries: Vec<Entry>, now: Instant, actions: &mut Vec<Action>) {
        let current = self.status().and_then(|status| status.attempt);
        let mut lines = Vec::new();
        for entry in entries {
            match entry {
                Entry::Output(line) => {
                    self.last_line = now;
                    self.older |= line.attempt.is_none();
                    self.shown |= current.is_none() || line.attempt.is_none() || line.attempt == current;
                    if self.options.filter.accepts(&line) {
                        lines.push(line);
                    }
                }
                Entry::End { attempt, assignment } => {
                    self.ended.insert((attempt, assignment));
                }
                Entry::Lost(bytes) => self.lost += bytes,
                Entry::Reached(time) => {
                    // The log still has what was written before the end: ours may come behind it.
                    let end = self.status().and_then(|status| status.completion_time.as_ref());
                    if end.is_none_or(|end| time <= end.0) {
                        self.last_line = now;
                    }
                }
            }
        }
        if !lines.is_empty() {
            actions.push(Action::Waiting(None));
            actions.push(Action::Write(lines));
        }
    }

    fn interrupted(&mut self, actions: &mut Vec<Action>) {
        self.interrupts += 1;
        if self.options.cancels && self.interrupts == 1 && self.terminal.is_none() {
            let text = format!("cancelling {}; press ctrl-c again to leave it to itself", self.name);
            actions.push(Action::Note(text));
            actions.push(Action::Cancel);
        } else {
            self.end(Outcome::Left, actions);
        }
    }

    /// Says why a Run does not start, once for each reason.
    fn explain_wait(&mut self, now: Instant, actions: &mut Vec<Action>) {
        if self.run.is_none() || self.phase() != Phase::Pending || now < self.began + self.patience() {
            return;
        }
        // The pause before another attempt has been told already.
        let pause = |status: &RunStatus| {
            status.next_attempt_time.is_some() && status.reason != Some(Reason::Unschedulable)
        };
        if self.status().is_some_and(pause) {
            return;
        }
        let silent = || "the scheduler has not looked at it yet (is one running?)".to_owned();
        let text = wait_text(self.run.as_deref()).unwrap_or_else(silent);
        if self.told.as_ref() == Some(&text) {
            return;
        }
        actions.push(Action::Waiting(Some(format!("{} is Pending", self.name))));
        actions.push(Action::Note(format!("{} is waiting: {text}", self.name)));
        self.told = Some(text);
    }

    fn finish(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let (Some(terminal), Some(run)) = (self.terminal, self.run.clone()) else { return };
        let status = run.status.clone().unwrap_or_default();
        let attempt = status.attempt.unwrap_or(1);
        let marked = self.ended.iter().any(|(ended, assignment)| {
            *ended == attempt && (assignment.is_none() || *assignment == status.assignment)
        });
        let pod = status.assigned_pod.as_ref().and_then(|pod| self.pods.get(pod).copied());
        let never_started = status.start_time.is_none() && status.exit_code.is_none();
        let closed = pod == Some(false);
        let complete = marked || closed || never_started || pod.is_none() || self.phase() == Phase::Ready;
        let silent = now >= terminal.max(self.last_line) + DRAIN;
        if !complete && !silent {
            return;
        }
        let started = !never_started && self.phase() != Phase::Ready;
        let outcome = Outcome::Ended {
            log_gone: started && !self.shown && !marked && (closed || pod.is_none()),
            cut_short: started && !marked && !self.older && (self.shown || pod == Some(true)),
            lost: self.lost,
            interrupted: self.interrupts > 0,
            run,
        };
        self.end(outcome, actions);
    }
}

/// What a Pending Run waits for, if anybody has said so.
fn wait_text(run: Option<&Run>) -> Option<String> {
    let status = run.and_then(|run| run.status.as_ref());
    if run.is_some_and(|run| run.spec.suspend == Some(true)) {
        return Some("it is suspended (spec.suspend)".into());
    }
    let message = status.and_then(|status| status.message.as_deref()).filter(|message| !message.is_empty());
    match (status.and_then(|status| status.reason), message) {
        (Some(reason), Some(message)) => Some(format!("{reason}: {message}")),
        (Some(Reason::Unschedulable), None) => Some("no Pod can take it now".into()),
        (Some(reason), None) => Some(reason.to_string()),
        (None, message) => message.map(str::to_owned),
    }
}

/// Says that another attempt follows.
fn retry_note(before: &RunStatus, now: &RunStatus) -> Option<String> {
    let (was, is) = (before.phase.unwrap_or_default(), now.phase.unwrap_or_default());
    if is != Phase::Pending || was == Phase::Pending || was.is_terminal() {
        return None;
    }
    let reason = now.reason.map(|reason| format!(" ({reason})")).unwrap_or_default();
    let message =
        now.message.as_deref().filter(|m| !m.is_empty()).map(|m| format!(": {m}")).unwrap_or_default();
    let next =
        now.next_attempt_time.as_ref().map(|time| format!("; the next follows at {}", age::clock(time.0)));
    let attempt = before.attempt.unwrap_or(1);
    Some(format!("attempt {attempt} did not finish{reason}{message}{}", next.unwrap_or_default()))
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
