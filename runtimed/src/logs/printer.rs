//! The one writer of standard output.

use std::io::Write;
use std::time::Duration;

use tokio::sync::mpsc;

/// Blocks in the queue at most.
const QUEUE: usize = 16;
/// Bytes of a block, about; one piece may exceed it.
pub(super) const BLOCK: usize = 64 << 10;

/// Where blocks of whole lines go. Cloning shares it.
#[derive(Debug, Clone)]
pub struct Printer {
    blocks: mpsc::Sender<Vec<u8>>,
}

impl Printer {
    /// Queues a block; waits while the reader of our output is slow.
    pub async fn print(&self, block: Vec<u8>) {
        // A printer that is gone has said why; Runs go on without it.
        let _ = self.blocks.send(block).await;
    }
}

/// Ends when every [`Printer`] is gone and all is written.
#[derive(Debug)]
pub struct PrinterThread(std::sync::mpsc::Receiver<()>);

impl PrinterThread {
    /// Waits until everything is written, for at most `limit`; false when it was not.
    pub fn finish(self, limit: Duration) -> bool {
        // The thread never sends: it is done when its end of the channel is gone.
        matches!(self.0.recv_timeout(limit), Err(std::sync::mpsc::RecvTimeoutError::Disconnected))
    }
}

/// Starts the thread that writes to `out`: a full pipe stops it, and nothing else.
///
/// # Errors
/// When no thread can be made.
pub fn start_printer(mut out: impl Write + Send + 'static) -> std::io::Result<(Printer, PrinterThread)> {
    let (sender, mut receiver) = mpsc::channel::<Vec<u8>>(QUEUE);
    let (done, finished) = std::sync::mpsc::channel::<()>();
    std::thread::Builder::new().name("output".into()).spawn(move || {
        let _done = done;
        let mut broken = false;
        while let Some(block) = receiver.blocking_recv() {
            if broken {
                continue;
            }
            if let Err(error) = out.write_all(&block).and_then(|()| out.flush()) {
                tracing::error!(%error, "standard output is gone: the output of Runs is dropped from now on");
                broken = true;
            }
        }
    })?;
    Ok((Printer { blocks: sender }, PrinterThread(finished)))
}
