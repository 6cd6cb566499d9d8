//! Kubernetes Events about what a person should look at.
//!
//! Comes in: [`Note`]s from the loops, without waiting. Goes out: core/v1 Events, of which the same news about
//! the same object is one that counts. Must always hold: an ordinary Run causes none, the loops never wait for
//! one, and what is written is bounded: by object, in all, and by the length of the queue. What is over the
//! bounds is dropped and counted; the objects' own status says everything anyway.

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kruntimes_daemon::Metrics;
use kruntimes_daemon::prometheus_client::metrics::counter::Counter;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::clock::Clock;

/// Notes that wait to be written.
const QUEUE: usize = 512;
/// Longest time that one request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// News that repeat within this time are one Event.
const WINDOW: Duration = Duration::from_secs(600);
/// Writes about one object: so many at once, then one each half minute.
const PER_OBJECT: Rate = Rate { burst: 10.0, every: Duration::from_secs(30) };
/// Writes in all.
const IN_ALL: Rate = Rate { burst: 100.0, every: Duration::from_millis(200) };
/// Bytes of a message that the API takes.
const MAX_MESSAGE: usize = 1024;

/// What an Event is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct About {
    /// `Run`, `Runtime` or `Pod`.
    pub kind: &'static str,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Uid.
    pub uid: String,
}

/// News about an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// Whose.
    pub about: About,
    /// Somebody should act.
    pub warning: bool,
    /// One CamelCase word.
    pub reason: String,
    /// A sentence.
    pub message: String,
}

/// What becomes of notes.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    written: Counter,
    dropped: Counter,
    failed: Counter,
}

impl Counters {
    /// Registers all three.
    pub(crate) fn new(metrics: &Metrics) -> Self {
        let this = Self::default();
        metrics.register(|registry| {
            registry.register("events_written", "Kubernetes Events written", this.written.clone());
            registry.register("events_dropped", "Kubernetes Events over the bounds", this.dropped.clone());
            let help = "Kubernetes Events that the API did not take";
            registry.register("events_failed", help, this.failed.clone());
        });
        this
    }
}

/// Takes notes and writes them in the background.
#[derive(Debug, Clone)]
pub struct Recorder {
    notes: mpsc::Sender<Note>,
    dropped: Counter,
}

impl Recorder {
    /// `component` is the program that speaks. Ends when the last clone is dropped.
    pub fn start(client: Client, component: &'static str, metrics: &Metrics) -> Self {
        let Counters { written, dropped, failed } = Counters::new(metrics);
        let (sender, mut notes) = mpsc::channel(QUEUE);
        let recorder = Self { notes: sender, dropped: dropped.clone() };
        tokio::spawn(async move {
            let instance = std::env::var("POD_NAME").unwrap_or_else(|_| component.to_owned());
            let (clock, mut correlator) = (Clock::start(), Correlator::default());
            while let Some(note) = notes.recv().await {
                let now = clock.now();
                let Some(step) = correlator.step(&note, now.mono) else {
                    dropped.inc();
                    continue;
                };
                match write(&client, component, &instance, &note, &step, now.wall).await {
                    Ok(()) => {
                        written.inc();
                    }
                    Err(error) => {
                        failed.inc();
                        tracing::debug!(?note, %error, "event not written");
                        correlator.forget(&note);
                    }
                }
            }
        });
        recorder
    }

    /// Takes a note, or drops it when too many wait.
    pub fn note(&self, note: Note) {
        if self.notes.try_send(note).is_err() {
            self.dropped.inc();
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum WriteError {
    #[error(transparent)]
    Api(#[from] kube::Error),
    #[error("no answer within {REQUEST_TIMEOUT:?}")]
    Slow,
}

async fn write(
    client: &Client,
    component: &str,
    instance: &str,
    note: &Note,
    step: &Step,
    now: Timestamp,
) -> Result<(), WriteError> {
    let api: Api<Event> = Api::namespaced(client.clone(), &note.about.namespace);
    let request = async {
        if step.count == 1 {
            api.create(&PostParams::default(), &event(component, instance, note, step, now)).await
        } else {
            let patch = Patch::Merge(again(note, step, now));
            api.patch(&step.name, &PatchParams::default(), &patch).await
        }
    };
    match tokio::time::timeout(REQUEST_TIMEOUT, request).await {
        Ok(answer) => Ok(answer.map(drop)?),
        Err(_) => Err(WriteError::Slow),
    }
}

fn event(component: &str, instance: &str, note: &Note, step: &Step, now: Timestamp) -> Event {
    let About { kind, namespace, name, uid } = note.about.clone();
    let api_version = if kind == "Pod" { "v1" } else { "kruntimes.io/v1alpha1" };
    Event {
        metadata: ObjectMeta {
            namespace: Some(namespace.clone()),
            name: Some(step.name.clone()),
            ..ObjectMeta::default()
        },
        involved_object: ObjectReference {
            api_version: Some(api_version.into()),
            kind: Some(kind.into()),
            namespace: Some(namespace),
            name: Some(name),
            uid: Some(uid),
            ..ObjectReference::default()
        },
        type_: Some(if note.warning { "Warning" } else { "Normal" }.into()),
        reason: Some(note.reason.clone()),
        message: Some(cut(&note.message).into()),
        count: Some(1),
        first_timestamp: Some(Time(now)),
        last_timestamp: Some(Time(now)),
        source: Some(EventSource { component: Some(component.into()), host: None }),
        reporting_component: Some(component.into()),
        reporting_instance: Some(instance.into()),
        ..Event::default()
    }
}

/// The same news again: the count, the time, and the newest words.
fn again(note: &Note, step: &Step, now: Timestamp) -> Value {
    json!({"count": step.count, "lastTimestamp": Time(now), "message": cut(&note.message)})
}

fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(MAX_MESSAGE)]
}

/// So many at once, then one `every` so often.
#[derive(Debug, Clone, Copy)]
struct Rate {
    burst: f64,
    every: Duration,
}

#[derive(Debug, Default)]
struct Spent {
    /// Not given back yet.
    tokens: f64,
    at: Duration,
}

impl Spent {
    fn at(&self, rate: Rate, now: Duration) -> f64 {
        let back = now.saturating_sub(self.at).as_secs_f64() / rate.every.as_secs_f64();
        (self.tokens - back).max(0.0)
    }

    fn has_room(&self, rate: Rate, now: Duration) -> bool {
        self.at(rate, now) + 1.0 <= rate.burst
    }

    fn take(&mut self, rate: Rate, now: Duration) {
        self.tokens = self.at(rate, now) + 1.0;
        self.at = now;
    }
}

/// What to write.
#[derive(Debug, PartialEq, Eq)]
struct Step {
    /// Name of the Event.
    name: String,
    /// How often it happened; 1: create it.
    count: i32,
}

/// One Event that may happen again.
#[derive(Debug)]
struct Series {
    name: String,
    count: i32,
    last: Duration,
}

/// Decides what becomes of each note. Its memory is bounded by [`IN_ALL`] over one [`WINDOW`].
#[derive(Debug, Default)]
struct Correlator {
    series: HashMap<(String, String), Series>,
    objects: HashMap<String, Spent>,
    all: Spent,
    made: u64,
    swept: Duration,
}

impl Correlator {
    fn step(&mut self, note: &Note, now: Duration) -> Option<Step> {
        self.sweep(now);
        let key = (note.about.uid.clone(), note.reason.clone());
        if let Some(series) = self.series.get_mut(&key) {
            // Counted even when it is not written: the next write says so.
            series.count = series.count.saturating_add(1);
            series.last = now;
        }
        let object = self.objects.get(&note.about.uid);
        if object.is_some_and(|spent| !spent.has_room(PER_OBJECT, now)) || !self.all.has_room(IN_ALL, now) {
            return None;
        }
        self.all.take(IN_ALL, now);
        self.objects.entry(note.about.uid.clone()).or_default().take(PER_OBJECT, now);
        if let Some(series) = self.series.get(&key) {
            return Some(Step { name: series.name.clone(), count: series.count });
        }
        self.made += 1;
        let unique = rand::random::<u64>() ^ self.made;
        let name = format!("{}.{unique:016x}", &note.about.name[..note.about.name.floor_char_boundary(200)]);
        self.series.insert(key, Series { name: name.clone(), count: 1, last: now });
        Some(Step { name, count: 1 })
    }

    /// Its Event does not exist, or may not.
    fn forget(&mut self, note: &Note) {
        self.series.remove(&(note.about.uid.clone(), note.reason.clone()));
    }

    fn sweep(&mut self, now: Duration) {
        if now < self.swept + WINDOW / 10 {
            return;
        }
        self.swept = now;
        self.series.retain(|_, series| series.last + WINDOW > now);
        self.objects.retain(|_, spent| spent.at + WINDOW > now);
    }
}

#[cfg(test)]
#[path = "events_tests.rs"]
mod tests;
