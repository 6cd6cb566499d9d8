//! The output of the Runs on our own standard output: one JSON object per line.
//!
//! Every attempt's output goes there while it runs, so that nothing is lost with a retry
//! or a Pod. Memory is bounded at every step: a line, a block, the queue; when nobody
//! takes our output, reading from the server waits, and the server drops by its own bound
//! and says so. An attempt's end never waits for it longer than [`DRAIN_LIMIT`].

mod follow;
mod lines;
mod printer;

use jiff::Timestamp;
use kruntimes_api::run::{Figure, Run};
use kruntimes_core::ids::Fence;
use kruntimes_core::run::AttemptUsage;
use serde::Serialize;

pub use follow::Follower;
pub use printer::{Printer, PrinterThread, start_printer};

/// How long the end of an attempt waits for its output to be taken.
pub const DRAIN_LIMIT: std::time::Duration = std::time::Duration::from_secs(30);

/// Whose output it is; the same for every line.
#[derive(Debug, Clone)]
pub struct Labels {
    run_uid: String,
    run_name: String,
    namespace: String,
    runtime: String,
    pod: String,
    attempt: i32,
    assignment: i64,
}

/// A line of output on the wire. Readers ignore fields that they do not know.
#[derive(Debug, Serialize)]
struct Line<'a> {
    run_uid: &'a str,
    run_name: &'a str,
    namespace: &'a str,
    runtime: &'a str,
    pod: &'a str,
    attempt: i32,
    stream: &'a str,
    message: &'a str,
    /// When it was read here.
    time: Timestamp,
    /// Of the line's first byte in its stream: tells lines that are printed twice after a restart.
    offset: u64,
    /// The line goes on in the next one.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    partial: bool,
}

/// The last line of an attempt: that its output is complete, and the record of its usage, which the status of a retried Run keeps
/// in a sum only.
#[derive(Debug, Serialize)]
struct EndMark<'a> {
    event: &'static str,
    run_uid: &'a str,
    run_name: &'a str,
    namespace: &'a str,
    runtime: &'a str,
    pod: &'a str,
    attempt: i32,
    assignment: i64,
    time: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Record<'a>>,
}

/// As in `status.usage`, of this attempt alone.
#[derive(Debug, Serialize)]
struct Record<'a> {
    figures: &'a [Figure],
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    incomplete: bool,
}

impl Labels {
    /// Of one attempt.
    pub fn new(run: &Run, fence: &Fence, pod: &str) -> Self {
        Self {
            run_uid: fence.run.to_string(),
            run_name: run.metadata.name.clone().unwrap_or_default(),
            namespace: run.metadata.namespace.clone().unwrap_or_default(),
            runtime: run.spec.runtime.clone(),
            pod: pod.to_owned(),
            attempt: fence.attempt,
            assignment: fence.assignment,
        }
    }

    fn line(&self, block: &mut Vec<u8>, stream: &str, line: &lines::Piece<'_>) {
        let message = String::from_utf8_lossy(line.bytes);
        append(
            block,
            &Line {
                run_uid: &self.run_uid,
                run_name: &self.run_name,
                namespace: &self.namespace,
                runtime: &self.runtime,
                pod: &self.pod,
                attempt: self.attempt,
                stream,
                message: &message,
                time: Timestamp::now(),
                offset: line.offset,
                partial: line.partial,
            },
        );
    }

    /// The line that says that an attempt's output is complete, and what the attempt used; no usage is one in which nothing was
    /// executed.
    pub fn end_mark(&self, usage: Option<&AttemptUsage>) -> Vec<u8> {
        let mut block = Vec::new();
        append(
            &mut block,
            &EndMark {
                event: "end",
                run_uid: &self.run_uid,
                run_name: &self.run_name,
                namespace: &self.namespace,
                runtime: &self.runtime,
                pod: &self.pod,
                attempt: self.attempt,
                assignment: self.assignment,
                time: Timestamp::now(),
                usage: usage.map(|usage| Record { figures: &usage.figures, incomplete: usage.incomplete }),
            },
        );
        block
    }
}

fn append(block: &mut Vec<u8>, line: &impl Serialize) {
    // Strings and numbers into memory: neither can fail.
    if serde_json::to_writer(&mut *block, line).is_ok() {
        block.push(b'\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(usage: Option<&AttemptUsage>) -> serde_json::Value {
        let mut run = Run::default();
        run.metadata.name = Some("r".into());
        let fence = Fence { run: "u".into(), attempt: 2, assignment: 3 };
        let block = Labels::new(&run, &fence, "p").end_mark(usage);
        assert_eq!(block.last(), Some(&b'\n'));
        serde_json::from_slice(&block).unwrap()
    }

    #[test]
    fn the_end_mark_has_the_record_of_its_attempt() {
        let wall = Figure { name: "wall_seconds".into(), value: 2.5, unit: "s".into(), ..Figure::default() };
        let whole = mark(Some(&AttemptUsage { figures: vec![wall.clone()], incomplete: false }));
        assert_eq!(
            (&whole["event"], &whole["run_uid"], &whole["pod"]),
            (&"end".into(), &"u".into(), &"p".into())
        );
        assert_eq!((&whole["attempt"], &whole["assignment"]), (&2.into(), &3.into()));
        assert_eq!(whole["usage"]["figures"][0]["value"], 2.5);
        assert_eq!(whole["usage"].get("incomplete"), None);

        let lost = mark(Some(&AttemptUsage { figures: vec![wall], incomplete: true }));
        assert_eq!(lost["usage"]["incomplete"], true);
        assert_eq!(mark(None).get("usage"), None, "nothing was executed");
    }
}
