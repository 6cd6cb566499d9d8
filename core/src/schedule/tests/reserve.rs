//! Room that is kept for a Run, and when it is kept no longer.

use std::time::Duration;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn gpus(world: &mut World, name: &str, gpus: i64) {
    world.change_pod(name, |pod| pod.capacity.set("gpu", Amount::whole(gpus)));
}

/// One Pod with two GPUs of which one is used, and a Run that waits for both and has them reserved.
fn reserved(world: &mut World) {
    world.pod("a", &[("runs", 8), ("gpu", 2)]);
    world.submit("s1", |run| request(run, &[("gpu", "1")]));
    assert_eq!(world.settle(), ["s1>a"]);
    world.submit("big", |run| request(run, &[("gpu", "2")]));
    world.pass(SECOND * 31);
    world.settle();
    world.submit("s2", |run| request(run, &[("gpu", "1")]));
    assert_eq!(world.settle(), [""; 0], "reserved");
}

#[test]
fn a_reservation_ends_with_the_capacity_that_it_was_made_for() {
    let mut world = World::new();
    reserved(&mut world);
    gpus(&mut world, "a", 1);
    world.finish("s1-uid");
    assert_eq!(world.settle(), ["s2>a"], "nothing is kept for who can never fit");
    world.pass(SECOND * 2);
    assert_eq!(world.settle(), ["big: 0 of 1 Pods fit: 1 lack gpu (want 2, offered 1)"]);
    // The GPU is back: who has waited long enough gets the Pod before small ones fill it again.
    gpus(&mut world, "a", 2);
    world.submit("s3", |run| request(run, &[("gpu", "1")]));
    assert_eq!(world.settle(), [""; 0]);
    world.finish("s2-uid");
    assert_eq!(world.settle(), ["big>a"]);
}

#[test]
fn who_lost_a_reservation_gets_one_on_another_pod() {
    let mut world = World::new();
    reserved(&mut world);
    world.pod("b", &[("runs", 8), ("gpu", 1)]);
    assert_eq!(world.settle(), ["s2>b"]);
    gpus(&mut world, "b", 2);
    gpus(&mut world, "a", 1);
    world.settle();
    world.submit("s3", |run| request(run, &[("gpu", "1")]));
    assert_eq!(world.settle(), [""; 0], "the one of a is used, and those of b are kept");
    world.finish("s2-uid");
    assert_eq!(world.settle(), ["big>b"]);
}

#[test]
fn a_pod_that_takes_runs_again_is_reserved_again() {
    let mut world = World::new();
    reserved(&mut world);
    world.change_pod("a", |pod| pod.ready = false);
    world.settle();
    world.change_pod("a", |pod| pod.ready = true);
    assert_eq!(world.settle(), [""; 0]);
    world.finish("s1-uid");
    assert_eq!(world.settle(), ["big>a"]);
}

#[test]
fn who_starves_next_has_the_pod_after_the_one_before() {
    let mut world = World::new();
    world.pod("a", &[("runs", 4)]);
    world.submit("s1", |_| ());
    world.submit("s2", |_| ());
    assert_eq!(world.settle(), ["s1>a", "s2>a"]);
    world.submit("big", |run| request(run, &[("runs", "3")]));
    world.submit("bigger", |run| request(run, &[("runs", "4")]));
    world.pass(SECOND * 31);
    world.settle();
    world.submit("s3", |_| ());
    assert_eq!(world.settle(), [""; 0], "reserved for big");
    world.finish("s1-uid");
    assert_eq!(world.settle(), ["big>a"]);
    world.finish("s2-uid");
    assert_eq!(world.settle(), [""; 0], "reserved for bigger");
    world.finish("big-uid");
    assert_eq!(world.settle(), ["bigger>a"]);
}

#[test]
fn a_pod_is_not_kept_for_who_may_not_go_there_any_more() {
    let mut world = World::new();
    world.pod("a", &[("runs", 2)]);
    world.submit("x", |run| label(run, "app", "x"));
    world.submit("s1", |_| ());
    assert_eq!(world.settle(), ["s1>a", "x>a"]);
    world.submit("near", |run| beside(run, vec![term("app", "x")], vec![]));
    world.submit("s2", |_| ());
    world.pass(SECOND * 31);
    world.settle();
    world.finish("x-uid");
    assert_eq!(world.settle(), ["s2>a"], "nobody of app x is there to be near to");
}
