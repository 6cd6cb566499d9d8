//! Watches: the events of one kind from a revision on, as a stream of JSON lines.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

use super::Api;
use super::errors::ApiError;
use super::http::form::Form;
use super::selector::Selector;
use crate::kinds::Kind;
use crate::store::{Change, Entry, Event, StoreError};

/// How often an idle watch that asked for bookmarks gets one.
const BOOKMARK_EVERY: Duration = Duration::from_secs(10);

/// Events read at once.
const BATCH: usize = 256;

/// What a watch asks for.
pub struct WatchRequest {
    pub kind: Arc<Kind>,
    pub namespace: String,
    pub selector: Selector,
    /// The revision after which it continues; None starts with the present state.
    pub after: Option<u64>,
    /// Start with the present objects as `ADDED`.
    pub initial: bool,
    /// Mark the end of the initial objects with a bookmark.
    pub mark_initial_end: bool,
    pub bookmarks: bool,
    pub timeout: Duration,
    pub form: Form,
}

struct Watch {
    api: Arc<Api>,
    request: WatchRequest,
    cursor: u64,
    changes: watch::Receiver<u64>,
    closing: watch::Receiver<u64>,
    ready: VecDeque<Bytes>,
    deadline: Instant,
    bookmark: Instant,
    /// The columns of a table are sent with the first row only.
    headed: bool,
    ended: bool,
}

/// The stream of a watch. It ends at its timeout or when watches are closed, and with an event `ERROR` when its
/// revision is no longer in the history: as at a real API server the answer itself is 200 then, too, and clients
/// count on that.
pub fn start(api: &Arc<Api>, request: WatchRequest) -> impl Stream<Item = Result<Bytes, Infallible>> + use<> {
    let changes = api.store.changes(&request.kind);
    let closing = api.faults.watch_generation();
    let mut watch = Watch {
        api: Arc::clone(api),
        cursor: 0,
        changes,
        closing,
        ready: VecDeque::new(),
        deadline: Instant::now() + request.timeout,
        bookmark: Instant::now() + BOOKMARK_EVERY,
        headed: false,
        ended: false,
        request,
    };
    let present = match watch.request.after {
        Some(after) => {
            watch.cursor = after;
            if api.faults.take_expired() {
                watch.fail(&ApiError::Expired("too old resource version: a fault was asked for".into()));
            }
            Vec::new()
        }
        None => {
            let (objects, revision) = api.store.list(&watch.request.kind, &watch.request.namespace, None);
            watch.cursor = revision;
            objects
        }
    };
    if watch.request.initial {
        let lines: Vec<_> =
            present.iter().filter(|e| watch.request.selector.matches(e)).map(Arc::clone).collect();
        let lines: Vec<u8> = lines.iter().flat_map(|e| watch.line("ADDED", e, None)).collect();
        if !lines.is_empty() {
            watch.ready.push_back(lines.into());
        }
    }
    if watch.request.mark_initial_end {
        let line = watch.bookmark_line(true);
        watch.ready.push_back(line);
    }
    futures::stream::unfold(watch, |mut watch| async move {
        let line = watch.next().await?;
        Some((Ok(line), watch))
    })
}

fn expired(error: StoreError) -> ApiError {
    match error {
        StoreError::TooOld { .. } => ApiError::Expired(error.to_string()),
        other => ApiError::Internal(other.to_string()),
    }
}

impl Watch {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(line) = self.ready.pop_front() {
                return Some(line);
            }
            if self.ended {
                return None;
            }
            self.changes.borrow_and_update();
            match self.api.store.events(&self.request.kind, self.cursor, BATCH) {
                Ok((events, complete)) => {
                    let full = events.len() == BATCH;
                    self.cursor = complete;
                    let lines: Vec<u8> = events.iter().filter_map(|e| self.event(e)).flatten().collect();
                    if !lines.is_empty() {
                        self.ready.push_back(lines.into());
                    }
                    if !self.ready.is_empty() || full {
                        continue;
                    }
                }
                Err(error) => {
                    self.fail(&expired(error));
                    continue;
                }
            }
            self.wait().await;
        }
    }

    /// The last event.
    fn fail(&mut self, error: &ApiError) {
        let event = json!({"type": "ERROR", "object": error.to_status()});
        self.ready.push_back(format!("{event}\n").into());
        self.ended = true;
    }

    async fn wait(&mut self) {
        tokio::select! {
            changed = self.changes.changed() => self.ended = changed.is_err(),
            _ = self.closing.changed() => self.ended = true,
            () = tokio::time::sleep_until(self.deadline) => {
                self.ended = true;
                if self.request.bookmarks {
                    let line = self.bookmark_line(false);
                    self.ready.push_back(line);
                }
            }
            () = tokio::time::sleep_until(self.bookmark), if self.request.bookmarks => {
                let line = self.bookmark_line(false);
                self.ready.push_back(line);
                self.bookmark = Instant::now() + BOOKMARK_EVERY;
            }
        }
    }

    /// The line of an event as this watch's selector sees it.
    fn event(&mut self, event: &Event) -> Option<Vec<u8>> {
        let within = |entry: &Entry| {
            (self.request.namespace.is_empty() || entry.key.namespace == self.request.namespace)
                && self.request.selector.matches(entry)
        };
        let before = event.previous.as_deref().is_some_and(within);
        let now = event.change != Change::Deleted && within(&event.entry);
        let entry = Arc::clone(&event.entry);
        match (before, now) {
            (false, true) => Some(self.line("ADDED", &entry, None)),
            (true, true) => Some(self.line("MODIFIED", &entry, None)),
            (false, false) => None,
            (true, false) if event.change == Change::Deleted => Some(self.line("DELETED", &entry, None)),
            (true, false) => {
                // It has left the selection: its last state inside, at the revision of the change.
                let mut last = event.previous.as_ref()?.value();
                let revision = json!(entry.revision.to_string());
                crate::object::set(&mut last, &["metadata", "resourceVersion"], revision);
                Some(self.line("DELETED", &entry, Some(last)))
            }
        }
    }

    fn line(&mut self, word: &str, entry: &Entry, instead: Option<Value>) -> Vec<u8> {
        let mut line = format!("{{\"type\":\"{word}\",\"object\":").into_bytes();
        match (&self.request.form, instead) {
            (Form::Object, None) => line.extend_from_slice(&entry.json),
            (form, instead) => {
                let object = instead.unwrap_or_else(|| entry.value());
                let head = !std::mem::replace(&mut self.headed, true);
                let shown = form.one(&self.request.kind, object, head, Timestamp::now());
                line.extend_from_slice(shown.to_string().as_bytes());
            }
        }
        line.extend_from_slice(b"}\n");
        line
    }

    fn bookmark_line(&self, initial_end: bool) -> Bytes {
        let mut meta = json!({"resourceVersion": self.cursor.to_string(), "creationTimestamp": null});
        if initial_end {
            meta["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let object = self.request.form.bookmark(&self.request.kind, meta);
        format!("{}\n", json!({"type": "BOOKMARK", "object": object})).into()
    }
}
