//! The output of one execution as a stream of chunks.

use std::sync::Arc;

use kruntimes_proto::v1::{LogChunk, LogsRequest, Stream as Which};
use tokio::sync::mpsc::Sender;
use tonic::Status;

use crate::capture::Stream;
use crate::engine::{Engine, Run};

/// Bytes in one chunk at most.
const CHUNK: usize = 64 * 1024;

type Chunks = Sender<Result<LogChunk, Status>>;

/// Sends both streams from their offsets, side by side; with `follow` until the execution has ended.
pub(super) async fn send(
    engine: &Engine,
    run: &Arc<Run>,
    ended: bool,
    request: &LogsRequest,
    chunks: &Chunks,
) {
    if request.follow && !ended {
        // Until the pipes are there, or it ended without any.
        engine.until_output_or_end(run).await;
    }
    let Some(capture) = run.capture.get() else {
        // Never started: there is nothing, and nothing will come.
        for which in [Which::Stdout, Which::Stderr] {
            let _ = chunks.send(Ok(chunk(which, 0, Vec::new(), true))).await;
        }
        return;
    };
    let out = one(&capture.stdout, Which::Stdout, request.stdout_offset, request.follow, chunks);
    let err = one(&capture.stderr, Which::Stderr, request.stderr_offset, request.follow, chunks);
    tokio::join!(out, err);
}

async fn one(stream: &Stream, which: Which, mut offset: u64, follow: bool, chunks: &Chunks) {
    let mut grown = stream.watch();
    loop {
        grown.borrow_and_update();
        let piece = stream.read(offset, CHUNK);
        let empty = piece.data.is_empty();
        if !empty || piece.last {
            offset = piece.offset + piece.data.len() as u64;
            let sent = chunks.send(Ok(chunk(which, piece.offset, piece.data, piece.last))).await;
            if sent.is_err() || piece.last {
                return;
            }
        } else if !follow || grown.changed().await.is_err() {
            return;
        }
    }
}

fn chunk(which: Which, offset: u64, data: Vec<u8>, end: bool) -> LogChunk {
    LogChunk { stream: which.into(), offset, data, end }
}
