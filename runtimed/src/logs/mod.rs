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
use kruntimes_api::run::Run;
use kruntimes_core::ids::Fence;
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

#[derive(Debug, Serialize)]
struct EndMark<'a> {
    event: &'static str,
    run_uid: &'a str,
    run_name: &'a str,
    namespace: &'a str,
    attempt: i32,
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

    /// The line that says that an attempt's output is complete.
    pub fn end_mark(&self) -> Vec<u8> {
        let mut block = Vec::new();
        append(
            &mut block,
            &EndMark {
                event: "end",
                run_uid: &self.run_uid,
                run_name: &self.run_name,
                namespace: &self.namespace,
                attempt: self.attempt,
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
