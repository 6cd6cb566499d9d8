//! Following one attempt's output from the server to the printer.

use std::time::Duration;

use futures::StreamExt as _;
use kruntimes_core::ids::Fence;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::lines::Lines;
use super::printer::BLOCK;
use super::{Labels, Printer};
use crate::server::{Instance, LogPiece, Offsets, ServerView, StreamName};

/// Before a broken stream is opened again on the same connection.
const PAUSE: Duration = Duration::from_millis(200);

/// A task that ends when the execution has ended and all its output is printed, or when
/// its server is gone for good. Dropped, it stops.
#[derive(Debug)]
pub struct Follower(AbortOnDropHandle<()>);

impl Follower {
    /// Starts following.
    pub fn start(fence: Fence, labels: Labels, views: watch::Receiver<ServerView>, printer: Printer) -> Self {
        Self(AbortOnDropHandle::new(tokio::spawn(follow(fence, labels, views, printer))))
    }

    /// Waits until everything is printed, for at most `limit`; false when it was not.
    pub async fn drain(self, limit: Duration) -> bool {
        tokio::time::timeout(limit, self.0).await.is_ok()
    }
}

async fn follow(fence: Fence, labels: Labels, mut views: watch::Receiver<ServerView>, printer: Printer) {
    let mut output = Output { labels, stdout: Lines::default(), stderr: Lines::default(), block: Vec::new() };
    let mut instance: Option<Instance> = None;
    while let Some(client) = next_client(&mut views).await {
        // What another start of the server has under this id is not ours.
        if instance.get_or_insert_with(|| client.instance().clone()) != client.instance() {
            break;
        }
        let from = Offsets { stdout: output.stdout.next_offset(), stderr: output.stderr.next_offset() };
        let mut pieces = match client.logs(&fence, from).await {
            Ok(pieces) => pieces,
            // It has no such execution, or no output to give.
            Err(error) if error.answered => break,
            Err(_) => {
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let complete = loop {
            match pieces.next().await {
                None => break true,
                Some(Ok(piece)) => output.print(&piece, &printer).await,
                Some(Err(error)) => break error.answered,
            }
        };
        if complete {
            break;
        }
        tokio::time::sleep(PAUSE).await;
    }
    output.finish(&printer).await;
}

async fn next_client(
    views: &mut watch::Receiver<ServerView>,
) -> Option<std::sync::Arc<dyn crate::server::RuntimeClient>> {
    views.wait_for(|view| view.client.is_some()).await.ok().and_then(|view| view.client.clone())
}

struct Output {
    labels: Labels,
    stdout: Lines,
    stderr: Lines,
    block: Vec<u8>,
}

impl Output {
    async fn print(&mut self, piece: &LogPiece, printer: &Printer) {
        // In parts, so that a large piece of short lines does not become one huge block.
        for (index, part) in piece.data.chunks(BLOCK / 4).enumerate() {
            let offset = piece.offset + (index * (BLOCK / 4)) as u64;
            let (labels, block) = (&self.labels, &mut self.block);
            let name = piece.stream.to_string();
            let lines = match piece.stream {
                StreamName::Stdout => &mut self.stdout,
                StreamName::Stderr => &mut self.stderr,
            };
            lines.push(offset, part, &mut |line| labels.line(block, &name, &line));
            self.flush(printer).await;
        }
    }

    async fn finish(&mut self, printer: &Printer) {
        let (labels, block) = (&self.labels, &mut self.block);
        for (stream, lines) in
            [(StreamName::Stdout, &mut self.stdout), (StreamName::Stderr, &mut self.stderr)]
        {
            let name = stream.to_string();
            lines.finish(&mut |line| labels.line(block, &name, &line));
        }
        self.flush(printer).await;
    }

    async fn flush(&mut self, printer: &Printer) {
        if !self.block.is_empty() {
            printer.print(std::mem::take(&mut self.block)).await;
        }
    }
}
