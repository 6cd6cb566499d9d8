//! One execution of `/bin/true` from `Execute` to the sight of its end, beside a bare spawn that is waited for.
//!
//! `cargo xtask bench kit` measures more and with limits; this one has criterion's statistics, to see whether a change made a
//! difference. The server is the example `shell`: `cargo build --release --package server-kit --examples` makes it.
#![allow(clippy::expect_used, clippy::panic, reason = "a benchmark fails by panic")]

#[path = "../tests/common/mod.rs"]
mod common;

use std::process::{Command, Stdio};

use common::{TestServer, job};
use criterion::{Criterion, criterion_group, criterion_main};
use kruntimes_proto::v1::watch_event::Event;
use kruntimes_proto::v1::{WatchEvent, WatchRequest};
use tonic::Streaming;

const PROGRAM: &str = "/bin/true";

struct Kit {
    server: TestServer,
    watch: Streaming<WatchEvent>,
    next: u64,
}

impl Kit {
    async fn start() -> Self {
        let mut server = TestServer::start(&["--cgroup-parent=none"]).await;
        let watch = server.events.watch(WatchRequest {}).await.expect("watch").into_inner();
        Self { server, watch, next: 0 }
    }

    async fn execute(&mut self) {
        self.next += 1;
        let id = format!("run-{}", self.next);
        self.server.execute(job(&id, &[PROGRAM])).await.expect("accepted");
        loop {
            let event = self.watch.message().await.expect("event").expect("event").event;
            if matches!(event, Some(Event::Execution(status)) if status.id == id && status.finished_at > 0) {
                break;
            }
        }
        self.server.forget(&id).await.expect("forgets");
    }
}

fn spawn() {
    let mut command = Command::new(PROGRAM);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().expect("spawns").wait().expect("ends");
}

fn execute(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    let mut kit = runtime.block_on(Kit::start());
    let mut group = criterion.benchmark_group("execute");
    group.bench_function("bare", |bencher| bencher.iter(spawn));
    group.bench_function("kit", |bencher| bencher.iter(|| runtime.block_on(kit.execute())));
    group.finish();
}

criterion_group!(benches, execute);
criterion_main!(benches);
