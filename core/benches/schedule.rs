//! Time per decision with 100,000 Runs queued, at 10, 1,000 and 10,000 Pods.
//!
//! One iteration is the whole life of a decision in a full pool: a Run ends, its slot is
//! found by the next in the queue, the bind is answered and seen. The growth from 10 to
//! 10,000 Pods should be about that of log n.

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kruntimes_api::run::{Resources, Run};
use kruntimes_core::ids::{PodUid, RunUid};
use kruntimes_core::run::transition;
use kruntimes_core::schedule::{Decision, Now, Outcome, PodView, RuntimeView, Scheduler, Settings};
use kruntimes_resources::Amount;

const QUEUED: usize = 100_000;
const SLOTS: i64 = 4;

fn now() -> Now {
    Now { wall: Timestamp::UNIX_EPOCH, mono: Duration::from_secs(1) }
}

/// Every tenth Run asks for a device as well, so that there is more than one demand.
fn run(index: usize) -> Run {
    let mut run = Run {
        metadata: ObjectMeta {
            name: Some(format!("run-{index:06}")),
            namespace: Some("team".into()),
            uid: Some(format!("uid-{index}")),
            resource_version: Some("1".into()),
            creation_timestamp: Some(Time(Timestamp::UNIX_EPOCH)),
            ..ObjectMeta::default()
        },
        ..Run::default()
    };
    run.spec.runtime = "bash".into();
    if index.is_multiple_of(10) {
        let requests = [("nvidia.com/gpu".to_owned(), Quantity("1".into()))].into();
        run.spec.resources = Some(Resources { requests, ..Resources::default() });
    }
    run
}

struct Pool {
    scheduler: Scheduler,
    bound: std::collections::VecDeque<String>,
    next: usize,
}

impl Pool {
    fn new(pods: usize) -> Self {
        let mut scheduler = Scheduler::new(Settings::default());
        scheduler.runtime_seen("team", "bash", Some(RuntimeView::default()), now());
        for index in 0..pods {
            scheduler.pod_seen(
                PodView {
                    namespace: "team".into(),
                    name: format!("pod-{index:05}").into(),
                    uid: PodUid::from(format!("pod-uid-{index}")),
                    runtime: "bash".into(),
                    ready: true,
                    deleting: false,
                    beat: Some(Timestamp::UNIX_EPOCH),
                    capacity: [("runs", Amount::whole(SLOTS)), ("nvidia.com/gpu", Amount::ONE)]
                        .into_iter()
                        .collect(),
                },
                now(),
            );
        }
        let mut pool = Self { scheduler, bound: std::collections::VecDeque::new(), next: 0 };
        for _ in 0..QUEUED {
            pool.submit();
        }
        pool.settle();
        pool
    }

    fn submit(&mut self) {
        self.scheduler.run_seen(&run(self.next), now());
        self.next += 1;
    }

    fn settle(&mut self) -> usize {
        let mut binds = 0;
        loop {
            let decisions = self.scheduler.plan(now(), 64).decisions;
            if decisions.is_empty() {
                return binds;
            }
            for Decision { run, event } in decisions {
                let Ok(status) = transition(&run, &event, now().wall) else { continue };
                let uid = run.metadata.uid.clone().unwrap_or_default();
                self.scheduler.settled(&RunUid::from(uid.as_str()), Outcome::Written, now());
                let seen = Run { status: Some(status), ..*run };
                self.scheduler.run_seen(&seen, now());
                self.bound.push_back(uid);
                binds += 1;
            }
        }
    }

    /// One Run ends, one is submitted, one is bound.
    fn turn(&mut self) {
        if let Some(uid) = self.bound.pop_front() {
            self.scheduler.run_gone(&RunUid::from(uid.as_str()), now());
        }
        self.submit();
        self.settle();
    }
}

fn decisions(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decision");
    group.throughput(Throughput::Elements(1)).sample_size(20);
    group.warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3));
    for pods in [10, 1_000, 10_000] {
        let mut pool = Pool::new(pods);
        group.bench_function(BenchmarkId::from_parameter(pods), |bencher| bencher.iter(|| pool.turn()));
    }
    group.finish();
}

criterion_group!(benches, decisions);
criterion_main!(benches);
