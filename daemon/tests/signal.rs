//! A stop signal to a real process cancels the token.
#![allow(clippy::expect_used, reason = "a test fails by panic")]

#[tokio::test]
async fn sigterm_cancels_the_token() {
    let token = kruntimes_daemon::shutdown_signal().expect("handlers");
    assert!(!token.is_cancelled());
    let pid = std::process::id().to_string();
    let status = std::process::Command::new("kill").args(["-TERM", &pid]).status().expect("kill runs");
    assert!(status.success());
    tokio::time::timeout(std::time::Duration::from_secs(10), token.cancelled()).await.expect("cancelled");
}
