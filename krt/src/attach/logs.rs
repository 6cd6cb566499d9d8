//! The output of Runs in the log of `runtimed`: one JSON object a line.
//!
//! A line of output is `{run_uid, run_name, namespace, runtime, pod, attempt, stream, message, time, offset}`,
//! with `"partial":true` where no end of line follows; after the last one of an attempt comes
//! `{"event":"end", run_uid, attempt, ...}`. Understood, too, are `assignment` in either, and
//! `"encoding":"base64"` for bytes that are no UTF-8. The older `runtimed` writes neither attempt,
//! time, offset nor the end.

use std::borrow::Cow;
use std::collections::HashMap;

use futures::{AsyncBufRead, AsyncBufReadExt};
use jiff::Timestamp;
use serde::Deserialize;

/// Longest line that is kept; the rest of a longer one is skipped.
const MAX_LINE: usize = 4 * 1024 * 1024;

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
}

#[derive(Deserialize)]
struct Wire<'a> {
    #[serde(borrow)]
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
    if uid.is_empty() || !contains(line, uid.as_bytes()) {
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

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

/// Reads the next line without its end; false at the end of the stream. At most [`MAX_LINE`] bytes are kept.
///
/// # Errors
/// As the stream.
pub async fn read_line(from: &mut (impl AsyncBufRead + Unpin), line: &mut Vec<u8>) -> std::io::Result<bool> {
    line.clear();
    let mut any = false;
    loop {
        let available = from.fill_buf().await?;
        if available.is_empty() {
            return Ok(any);
        }
        any = true;
        let end = available.iter().position(|byte| *byte == b'\n');
        let used = end.map_or(available.len(), |end| end + 1);
        let kept = end.unwrap_or(available.len()).min(MAX_LINE.saturating_sub(line.len()));
        line.extend_from_slice(&available[..kept]);
        from.consume_unpin(used);
        if end.is_some() {
            return Ok(true);
        }
    }
}

/// Remembers how far a log was read, so that a stream that broke goes on where it was, and what a
/// restarted `runtimed` prints again is shown once.
#[derive(Debug, Default, Clone)]
pub struct Position {
    last: Option<Timestamp>,
    at_last: usize,
    replayed: usize,
    offsets: HashMap<(Option<i32>, Stream), u64>,
}

impl Position {
    /// The stream begins anew, from a time before everything that was seen.
    pub fn restart(&mut self) {
        self.replayed = 0;
    }

    /// Where a restarted stream may begin.
    pub fn since(&self) -> Option<Timestamp> {
        self.last
    }

    /// Whether the line has not been seen. Lines without a time (the older `runtimed` prints
    /// all of them at once, at the end) are taken as new.
    pub fn is_new(&mut self, line: &Line) -> bool {
        if !self.is_new_time(line.time) {
            return false;
        }
        let Some(offset) = line.offset else { return true };
        match self.offsets.insert((line.attempt, line.stream), offset) {
            Some(reached) if offset <= reached => {
                self.offsets.insert((line.attempt, line.stream), reached);
                false
            }
            _ => true,
        }
    }

    /// The attempt has printed its last line; should it be bound again, it prints from the beginning.
    pub fn ended(&mut self, attempt: i32) {
        self.offsets.retain(|(of, _), _| *of != Some(attempt));
    }

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
