//! `krt doctor` against the local platform's API.
#![cfg(feature = "local")]

mod support;

use serde_json::{Value, json};
use support::World;

/// A Runtime that no controller looks after is wrong, and the clock, the kinds and the rights are well.
#[tokio::test(flavor = "multi_thread")]
async fn findings_are_made_of_what_the_api_says() {
    let world = World::new().await;
    world.runtime("bash").await;
    let done = world.done(&["doctor", "-o", "json"]).await;
    assert_eq!(done.code, 1, "{}", done.err);
    let answer: Value = serde_json::from_str(&done.out).unwrap();
    let verdict = |check: &str| {
        let findings = answer["findings"].as_array().unwrap();
        findings.iter().find(|finding| finding["check"] == check).map(|finding| finding["verdict"].clone())
    };
    for check in ["API server", "Clock", "Kinds", "Rights"] {
        assert_eq!(verdict(check), Some(json!("ok")), "{check}: {}", done.out);
    }
    assert_eq!(verdict("Runtimes"), Some(json!("error")), "{}", done.out);
    let done = world.done(&["doctor"]).await;
    assert!(done.out.contains("$ krt runtime describe bash -n default"), "{}", done.out);
}
