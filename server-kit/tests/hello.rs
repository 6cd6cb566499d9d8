//! The server of the crate's documentation is short, and works.
#![allow(clippy::expect_used, reason = "a test fails by panic")]

mod common;

use common::*;
use kruntimes_proto::v1::StopCause;
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
