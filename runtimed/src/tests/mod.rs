//! Fakes: a Runtime Server of both kinds, and the part of the API that holds Runs.

pub(crate) mod api;
pub(crate) mod server;

use std::time::Duration;

/// Waits until `probe` gives something.
pub(crate) async fn until<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(tokio::time::Instant::now() < deadline, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
