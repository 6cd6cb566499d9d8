//! The server of the crate's documentation is short, and works.
#![allow(clippy::expect_used, reason = "a test fails by panic")]

mod common;

use common::*;
use kruntimes_proto::v1::{DescribeRequest, IsolationAxis, StopCause};
use tonic::Code;

#[test]
fn it_is_at_most_25_lines() {
    let source = include_str!("../examples/hello.rs");
    assert!(source.lines().count() <= 25, "{} lines", source.lines().count());
}

#[tokio::test]
async fn it_greets() {
    let dir = tempfile::tempdir().expect("tempdir");
    let child = command(&example("hello"), dir.path(), &[]).spawn().expect("server starts");
    let mut server = TestServer::attach(child, dir).await;
    server.execute(job("a", &["world"])).await.expect("accepted");
    let status = server.end("a").await;
    assert_eq!((status.stdout.as_str(), status.stop_cause()), ("Hello, world!\n", StopCause::Exited));
    let refused = server.execute(job("b", &[])).await.expect_err("refused");
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert_eq!(refused.message(), "args: expected one name");
    assert_eq!(server.status("b").await.expect_err("not kept").code(), Code::NotFound);
}

/// `--probe` tells what a server in its place would tell, and leaves nothing.
#[tokio::test]
async fn what_a_place_gives_is_told_without_serving() {
    let mut server = TestServer::start(&[]).await;
    let described = server.events.describe(DescribeRequest {}).await.expect("describe").into_inner();
    let described = described.isolation.expect("isolation").axes;

    let dir = tempfile::tempdir().expect("tempdir");
    let _groups = groups::Groups::of(dir.path());
    let output = command(&example("shell"), dir.path(), &["--probe"]).output().expect("starts");
    assert!(output.status.success(), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one line of JSON");
    println!("{told:#}");
    let axes = told["isolation"].as_array().expect("axes");
    let words = |axis: &serde_json::Value| ["axis", "level", "mechanism"].map(|key| axis[key].clone());
    let told: Vec<_> = axes.iter().map(words).collect();
    let known = |axis: &IsolationAxis| {
        [&*axis.axis, &format!("{:?}", axis.level()), &axis.mechanism].map(serde_json::Value::from)
    };
    assert_eq!(told, described.iter().map(known).collect::<Vec<_>>());
    for axis in axes.iter().filter(|axis| axis["level"] == "Hard") {
        assert_eq!(axis["remedies"], serde_json::json!([]), "{axis}");
    }
    let left: Vec<_> = std::fs::read_dir(dir.path().join("run")).expect("folder").flatten().collect();
    assert!(left.is_empty(), "{left:?}");
}
