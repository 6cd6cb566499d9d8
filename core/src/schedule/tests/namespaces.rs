//! What happens in one namespace leaves rooms and reservations of another alone, however alike the names are.

use super::*;

const OTHER: &str = "other";

/// A Run that is called like one of the first namespace, in the other.
fn submit_there(world: &mut World, name: &str, change: impl FnOnce(&mut Run)) -> String {
    let uid = format!("{OTHER}/{name}-uid");
    world.submit(name, |run| {
        run.metadata.namespace = Some(OTHER.into());
        run.metadata.uid = Some(uid.clone());
        change(run);
    });
    uid
}

/// Two namespaces with a Runtime `bash` and a Pod `p` of one slot each.
fn two() -> World {
    let mut world = World::new();
    let now = world.now();
    world.scheduler.runtime_seen(OTHER, "bash", Some(RuntimeView::default()), now);
    world.pod("p", &[("runs", 1)]);
    world.pod_in(OTHER, "bash", "p", &[("runs", 1)]);
    world
}

#[test]
fn a_bind_in_flight_holds_its_room_whatever_happens_elsewhere() {
    let mut world = two();
    world.submit("a", |_| ());
    let there = submit_there(&mut world, "a", |_| ());
    let plan = world.scheduler.plan(world.now(), 8);
    assert_eq!(plan.decisions.len(), 2, "one slot each");
    let (here, elsewhere): (Vec<_>, Vec<_>) = plan
        .decisions
        .into_iter()
        .partition(|decision| decision.run.metadata.namespace.as_deref() == Some(NS));
    // There it is written, seen, ended and followed by another, while the answer for ours is still out.
    assert!(world.apply(&elsewhere[0]));
    world.show(&there);
    world.finish(&there);
    submit_there(&mut world, "b", |_| ());
    assert_eq!(world.settle(), ["b>p"]);
    world.submit("b", |_| ());
    let now = world.now();
    let listed = world.runs.keys().map(|uid| RunUid::from(uid.as_str())).collect();
    world.scheduler.runs_listed(&listed, now);
    assert_eq!(world.settle(), [""; 0], "the room here is taken by the bind that is being written");
    world.scheduler.runtime_seen(OTHER, "bash", None, now);
    world.scheduler.pod_gone(&PodUid::from(format!("{OTHER}/p-uid")), now);
    assert_eq!(world.settle(), [""; 0], "also when all of the other namespace goes away");
    assert!(world.apply(&here[0]));
    world.show("a-uid");
    world.finish("a-uid");
    assert_eq!(world.settle(), ["b>p"]);
}

#[test]
fn room_reserved_in_one_namespace_is_not_kept_from_the_other() {
    let mut world = World::new();
    let now = world.now();
    world.scheduler.runtime_seen(OTHER, "bash", Some(RuntimeView::default()), now);
    world.pod("p", &[("runs", 2)]);
    world.pod_in(OTHER, "bash", "p", &[("runs", 2)]);
    world.submit("small", |_| ());
    submit_there(&mut world, "small", |_| ());
    world.settle();
    // It waits so long that what becomes free here is kept for it.
    world.submit("big", |run| request(run, &[("runs", "2")]));
    world.pass(Duration::from_secs(40));
    world.settle();
    world.submit("late", |_| ());
    submit_there(&mut world, "late", |_| ());
    assert_eq!(world.bound.iter().filter(|name| *name == "late").count(), 0);
    let done: Vec<String> = world.settle().into_iter().filter(|what| what.contains('>')).collect();
    assert_eq!(done, ["late>p"], "there at once, here not");
    world.finish("small-uid");
    let done: Vec<String> = world.settle().into_iter().filter(|what| what.contains('>')).collect();
    assert_eq!(done, ["big>p"]);
}

/// Writes at a time.
const WRITES: usize = 4;

/// Shows the scheduler a Run that nobody else knows: [`World`] checks everything after each of its own, which is too much for
/// ten thousand.
fn show(world: &mut World, namespace: &str, index: usize) {
    let run = Run {
        metadata: ObjectMeta {
            name: Some(format!("r-{index:05}")),
            namespace: Some(namespace.into()),
            uid: Some(format!("{namespace}/r-{index}-uid")),
            resource_version: Some("1".into()),
            creation_timestamp: Some(Time(world.now().wall)),
            ..ObjectMeta::default()
        },
        spec: kruntimes_api::run::RunSpec { runtime: "bash".into(), ..Default::default() },
        ..Run::default()
    };
    let now = world.now();
    world.scheduler.run_seen(&run, now);
}

/// Lets `WRITES` decisions be written, all at once. Gives the namespaces that they were for.
fn write(world: &mut World) -> Vec<String> {
    let now = world.now();
    let plan = world.scheduler.plan(now, WRITES);
    assert!(plan.decisions.len() <= WRITES);
    let namespace = |decision: Decision| {
        assert!(matches!(decision.event, Event::Bind { .. }), "{:?}", decision.event);
        let uid = decision.run.metadata.uid.unwrap();
        world.scheduler.settled(&RunUid::from(uid), Outcome::Written, now);
        decision.run.metadata.namespace.unwrap()
    };
    plan.decisions.into_iter().map(namespace).collect()
}

#[test]
fn ten_thousand_runs_of_one_namespace_do_not_hold_up_ten_of_another() {
    const MANY: usize = 10_000;
    const FEW: usize = 10;
    let mut world = World::new();
    let now = world.now();
    world.scheduler.runtime_seen(OTHER, "bash", Some(RuntimeView::default()), now);
    world.pod("p", &[("runs", 20_000)]);
    world.pod_in(OTHER, "bash", "p", &[("runs", 20_000)]);
    for index in 0..MANY {
        show(&mut world, NS, index);
    }
    // The ten come when the many are already being written, and are younger than all of them.
    for _ in 0..5 {
        assert_eq!(write(&mut world), [NS; WRITES]);
    }
    world.pass(Duration::from_secs(1));
    for index in 0..FEW {
        show(&mut world, OTHER, index);
    }
    let (mut decisions, mut theirs) = (0, 0);
    while theirs < FEW {
        let written = write(&mut world);
        decisions += written.len();
        theirs += written.iter().filter(|namespace| *namespace == OTHER).count();
        assert!(decisions <= 2 * FEW + WRITES, "{theirs} of {FEW} after {decisions} decisions");
    }
    // Nor do the ten cost the many more than their turns.
    let mut ours = 5 * WRITES + decisions - theirs;
    while ours < MANY {
        let written = write(&mut world);
        assert_eq!(written.len(), WRITES.min(MANY - ours), "no write is left unused");
        ours += written.len();
    }
    assert_eq!(write(&mut world), [""; 0]);
    world.verify();
}
