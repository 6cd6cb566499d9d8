//! The time, read at the edge and handed to the core.

use std::time::Duration;

use jiff::Timestamp;
use kruntimes_core::schedule::Now;
use tokio::time::Instant;

/// Reads both clocks; the monotonic one counts from the start of the process.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    /// Starts counting.
    pub fn start() -> Self {
        Self { start: Instant::now() }
    }

    /// The time now.
    pub fn now(self) -> Now {
        Now { wall: Timestamp::now(), mono: self.start.elapsed() }
    }

    /// Waits for `delay`, or for ever.
    pub async fn sleep(delay: Option<Duration>) {
        match delay {
            Some(delay) => tokio::time::sleep(delay).await,
            None => std::future::pending().await,
        }
    }
}
