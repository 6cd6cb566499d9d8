//! The clock on the wall jumps by an hour, forth or back, and nothing is lost, early or late for it.

use kruntimes_api::Reason;
use kruntimes_api::run::RetryPolicy;

use super::*;
use crate::run::Lost;

const SECOND: Duration = Duration::from_secs(1);
const JUMPS: [i64; 2] = [3600, -3600];

fn jumped(world: &mut World, seconds: i64) {
    world.jump = SignedDuration::from_secs(seconds);
}

#[test]
fn a_pending_timeout_is_as_long_as_it_says() {
    for jump in JUMPS {
        let mut world = World::new();
        world.submit("a", |run| run.spec.pending_timeout = Some("10m".into()));
        world.pass(SECOND * 60);
        world.settle();
        jumped(&mut world, jump);
        // Seen anew, as after any change of it.
        world.change("a-uid", |run| label(run, "seen", "again"));
        world.pass(SECOND * 530);
        let early = world.settle();
        assert!(!early.contains(&"a PendingTimeout".to_owned()), "{jump}: {early:?}");
        world.pass(SECOND * 11);
        let done = world.settle();
        assert!(done.contains(&"a PendingTimeout".to_owned()), "{jump}: {done:?}");
    }
}

#[test]
fn one_that_was_made_by_a_clock_ahead_of_ours_ends_in_its_own_time() {
    let mut world = World::new();
    jumped(&mut world, 3600);
    let mut run = Run::default();
    run.metadata.creation_timestamp = Some(Time(world.now().wall));
    jumped(&mut world, 0);
    world.submit("a", |new| {
        new.metadata.creation_timestamp = run.metadata.creation_timestamp;
        new.spec.pending_timeout = Some("30s".into());
    });
    world.pass(SECOND * 31);
    assert!(world.settle().contains(&"a PendingTimeout".to_owned()));
}

/// A Run whose first attempt was lost, to be tried again after ten seconds.
fn lost_once(world: &mut World) {
    let pod = world.pod("p", &[("runs", 1)]);
    world.submit("a", |run| {
        run.spec.retry_policy = Some(RetryPolicy {
            max_attempts: Some(2),
            backoff: Some("10s".into()),
            ..RetryPolicy::default()
        });
    });
    assert_eq!(world.settle(), ["a>p"]);
    world.event("a-uid", &Event::PodLost { pod, lost: Lost::Gone, message: "gone".into() });
    assert_eq!(world.settle(), [""; 0], "it waits");
}

#[test]
fn the_pause_before_a_retry_is_as_long_as_it_says() {
    for jump in JUMPS {
        let mut world = World::new();
        lost_once(&mut world);
        jumped(&mut world, jump);
        world.change("a-uid", |run| label(run, "seen", "again"));
        world.pass(SECOND * 9);
        assert_eq!(world.settle(), [""; 0], "{jump}: not early");
        assert!(world.scheduler.plan(world.now(), 8).next.is_some_and(|next| next <= SECOND), "{jump}");
        world.pass(SECOND);
        assert_eq!(world.settle(), ["a>p"], "{jump}: not late");
        assert_eq!(world.runs["a-uid"].status.as_ref().unwrap().attempt, Some(2));
    }
}

#[test]
fn a_retry_put_off_by_a_clock_that_was_ahead_waits_for_no_longer_than_a_pause_can_be() {
    let mut world = World::new();
    jumped(&mut world, 3600);
    lost_once(&mut world);
    // Another scheduler reads it after the clock was set right.
    jumped(&mut world, 0);
    let (pods, run) = (world.pods.clone(), world.runs["a-uid"].clone());
    world.scheduler = Scheduler::new(Settings::default());
    world.runtime("bash", RuntimeView { replicas: 1, ..RuntimeView::default() });
    for mut pod in pods.into_values() {
        let now = world.now();
        pod.beat = Some(now.wall);
        world.scheduler.pod_seen(pod, now);
    }
    world.store(run);
    world.pass(SECOND * 61);
    assert_eq!(world.settle(), ["a>p"]);
}

#[test]
fn heartbeats_count_by_their_change_and_not_by_what_they_say() {
    for jump in JUMPS {
        let mut world = World::new();
        world.pod("alive", &[("runs", 2)]);
        world.pod("silent", &[("runs", 9)]);
        let silent = world.pods.remove("silent").unwrap();
        world.pass(SECOND * 20);
        jumped(&mut world, jump);
        world.pass(SECOND * 10);
        assert!(world.pods.values().all(|pod| pod.uid != silent.uid));
        // Fuller, and still the only one that is heard.
        for name in ["a", "b"] {
            world.submit(name, |_| ());
            assert_eq!(world.settle(), [format!("{name}>alive")], "{jump}");
        }
        world.submit("c", |_| ());
        assert_eq!(world.settle(), [""; 0], "{jump}: the silent one is not heard for the jump's sake");
        world.finish("a-uid");
        assert_eq!(world.settle(), ["c>alive"], "{jump}");
        assert!(world.runs.values().all(|run| {
            run.status.as_ref().and_then(|status| status.reason) != Some(Reason::PendingTimeout)
        }));
    }
}
