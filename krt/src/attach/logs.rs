//! The output of Runs in the log of `runtimed`: one JSON object a line.
//!
//! A line of output is `{run_uid, run_name, namespace, runtime, pod, attempt, stream, message, time, offset}`,
//! with `"partial":true` where no end of line follows; after the last one of an attempt comes
//! `{"event":"end", run_uid, attempt, assignment, usage, ...}`. Understood, too, are `assignment` in a line of output, and
//! `"encoding":"base64"` for bytes that are no UTF-8. The older `runtimed` writes neither attempt,
//! time, offset nor the end.

use std::borrow::Cow;
use std::collections::HashMap;

use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde::Deserialize;

/// Longest line that is kept; the rest of a longer one is skipped.
const MAX_LINE: usize = 4 * 1024 * 1024;
/// How often lines of other Runs are looked at for their time.
const GLANCE: Duration = Duration::from_millis(200);

/// Where a line was written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stream {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

/// One piece of output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Where it was written to.
    pub stream: Stream,
    /// Attempt that wrote it; unknown from the older `runtimed`.
    pub attempt: Option<i32>,
    /// When `runtimed` saw it.
    pub time: Option<Timestamp>,
    /// Of its first byte in its stream.
    pub offset: Option<u64>,
    /// What was written, with the end of line if there was one.
    pub bytes: Vec<u8>,
}

/// One entry of the log that concerns the Run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// Output.
    Output(Line),
    /// The attempt will print no more.
    End {
        /// Attempt.
        attempt: i32,
        /// Bind that it belongs to, where it is told.
        assignment: Option<i64>,
    },
    /// So many bytes of output are no longer in the log.
    Lost(u64),
    /// The log has come to this time, with the output of others.
    Reached(Timestamp),
}

#[derive(Deserialize)]
struct Wire<'a> {
    #[serde(default, borrow)]
    run_uid: Cow<'a, str>,
    #[serde(default, borrow)]
    event: Cow<'a, str>,
    #[serde(default, borrow)]
    stream: Cow<'a, str>,
    #[serde(default, borrow)]
    message: Cow<'a, str>,
    #[serde(default, borrow)]
    time: Cow<'a, str>,
    #[serde(default, borrow)]
    encoding: Cow<'a, str>,
    #[serde(default)]
    partial: bool,
    attempt: Option<i32>,
    assignment: Option<i64>,
    offset: Option<u64>,
}

/// What a line of the log says of the Run `uid`; none when it is about something else.
pub fn parse(line: &[u8], uid: &str) -> Option<Entry> {
    // Most lines of a busy Pod are about other Runs: they are not decoded.
    if uid.is_empty() || !mentions(line, uid.as_bytes()) {
        return None;
    }
    let wire: Wire<'_> = serde_json::from_slice(line).ok()?;
    if wire.run_uid != uid {
        return None;
    }
    if wire.event == "end" {
        return Some(Entry::End { attempt: wire.attempt.unwrap_or(1), assignment: wire.assignment });
    }
    let stream = match wire.stream.as_ref() {
        "stdout" => Stream::Out,
        "stderr" => Stream::Err,
        _ => return None,
    };
    let mut bytes = match wire.encoding.as_ref() {
        "base64" => k8s_openapi_base64(&wire.message)?,
        _ => wire.message.as_bytes().to_vec(),
    };
    if !wire.partial {
        bytes.push(b'\n');
    }
    let (attempt, time, offset) = (wire.attempt, wire.time.parse().ok(), wire.offset);
    Some(Entry::Output(Line { stream, attempt, time, offset, bytes }))
}

/// Kubernetes' own byte strings are base64 in JSON, so their decoder is at hand.
fn k8s_openapi_base64(text: &str) -> Option<Vec<u8>> {
    let value = serde_json::Value::String(text.to_owned());
    serde_json::from_value::<k8s_openapi::ByteString>(value).ok().map(|bytes| bytes.0)
}

/// Whether `uid` is in the line; our own `runtimed` writes it first.
fn mentions(line: &[u8], uid: &[u8]) -> bool {
    match line.strip_prefix(br#"{"run_uid":""#) {
        Some(rest) => rest.starts_with(uid),
        None => line.windows(uid.len()).any(|window| window == uid),
    }
}

/// When a line that is about anything was written.
fn time_of(line: &[u8]) -> Option<Timestamp> {
    serde_json::from_slice::<Wire<'_>>(line).ok()?.time.parse().ok()
}

/// Reads one log, block by block, for one Run.
#[derive(Debug, Clone)]
pub struct Reader {
    uid: String,
    position: Position,
    /// The beginning of a line whose end is still to come.
    held: Vec<u8>,
    glanced: Option<Instant>,
}

impl Reader {
    /// For the Run `uid`.
    pub fn new(uid: &str) -> Self {
        Self { uid: uid.to_owned(), position: Position::default(), held: Vec::new(), glanced: None }
    }

    /// The stream begins anew, from a time before everything that was seen.
    pub fn restart(&mut self) {
        self.position.restart();
        self.held.clear();
    }

    /// The time of the last line, where a restarted stream may begin.
    pub fn reached(&self) -> Option<Timestamp> {
        self.position.last
    }

    /// What `block` says of the Run.
    pub fn read(&mut self, block: &[u8], now: Instant) -> Vec<Entry> {
        let mut entries = Vec::new();
        for piece in block.split_inclusive(|byte| *byte == b'\n') {
            match piece.strip_suffix(b"\n") {
                Some(line) if self.held.is_empty() => self.line(line, now, &mut entries),
                Some(end) => {
                    self.hold(end);
                    let line = std::mem::take(&mut self.held);
                    self.line(&line, now, &mut entries);
                }
                None => self.hold(piece),
            }
        }
        entries
    }

    fn hold(&mut self, piece: &[u8]) {
        let room = MAX_LINE.saturating_sub(self.held.len());
        self.held.extend_from_slice(&piece[..piece.len().min(room)]);
    }

    fn line(&mut self, line: &[u8], now: Instant, entries: &mut Vec<Entry>) {
        match parse(line, &self.uid) {
            Some(Entry::Output(line)) => match self.position.take(&line) {
                Take::Seen => {}
                Take::New { lost } => {
                    entries.extend((lost > 0).then_some(Entry::Lost(lost)));
                    entries.push(Entry::Output(line));
                }
            },
            Some(entry) => {
                if let Entry::End { attempt, .. } = entry {
                    self.position.ended(attempt);
                }
                entries.push(entry);
            }
            None if self.glanced.is_none_or(|at| now.duration_since(at) >= GLANCE) => {
                self.glanced = Some(now);
                entries.extend(time_of(line).map(Entry::Reached));
            }
            None => {}
        }
    }
}

/// Whether a line is to be shown.
#[derive(Debug, PartialEq, Eq)]
enum Take {
    Seen,
    /// Not seen, and so many bytes before it are missing.
    New {
        lost: u64,
    },
}

/// Remembers how far a log was read, so that a stream that broke goes on where it was, what a
/// restarted `runtimed` prints again is shown once, and what is missing is noticed.
#[derive(Debug, Default, Clone)]
struct Position {
    last: Option<Timestamp>,
    at_last: usize,
    replayed: usize,
    /// By attempt and stream: offset of the last line, and of the next if that can be told.
    offsets: HashMap<(Option<i32>, Stream), (u64, Option<u64>)>,
}

impl Position {
    fn restart(&mut self) {
        self.replayed = 0;
    }

    fn take(&mut self, line: &Line) -> Take {
        if !self.is_new_time(line.time) {
            return Take::Seen;
        }
        let Some(offset) = line.offset else { return Take::New { lost: 0 } };
        // Bytes that were no UTF-8 were replaced by others: how many they were is not known.
        let replaced = line.bytes.windows(3).any(|bytes| bytes == "\u{fffd}".as_bytes());
        let next = (!replaced).then_some(offset + line.bytes.len() as u64);
        match self.offsets.get(&(line.attempt, line.stream)).copied() {
            Some((reached, _)) if offset <= reached => Take::Seen,
            before => {
                self.offsets.insert((line.attempt, line.stream), (offset, next));
                let expected = before.map_or(Some(0), |(_, expected)| expected).unwrap_or(offset);
                Take::New { lost: offset.saturating_sub(expected) }
            }
        }
    }

    /// The attempt has printed its last line; should it be bound again, it prints from the beginning.
    fn ended(&mut self, attempt: i32) {
        self.offsets.retain(|(of, _), _| *of != Some(attempt));
    }

    /// Lines without a time (the older `runtimed` prints all of them at once, at the end) are taken as new.
    fn is_new_time(&mut self, time: Option<Timestamp>) -> bool {
        let Some(time) = time else { return true };
        match self.last {
            Some(last) if time < last && self.at_last > self.replayed => false,
            Some(last) if time == last => {
                self.replayed += 1;
                if self.replayed <= self.at_last {
                    return false;
                }
                self.at_last = self.replayed;
                true
            }
            _ => {
                (self.last, self.at_last, self.replayed) = (Some(time), 1, 1);
                true
            }
        }
    }
}

#[cfg(test)]
#[path = "logs_tests.rs"]
mod tests;
