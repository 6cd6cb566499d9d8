//! One test per rule of placement.

use std::time::Duration;

use kruntimes_api::Reason;
use kruntimes_api::run::{RetryPolicy, WeightedAffinityTerm};
use kruntimes_api::runtime::{RunBounds, Tenancy};

use super::*;
use crate::run::Lost;

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn nothing_is_decided_without_pods_and_the_person_is_told_why() {
    let mut world = World::new();
    world.submit("a", |_| ());
    assert_eq!(world.settle(), [""; 0]);
    world.pass(SECOND);
    assert_eq!(world.settle(), ["a: runtime \"bash\" has no Pods; see the conditions of that Runtime"]);
    world.pod("p", &[("runs", 1)]);
    assert_eq!(world.settle(), ["a>p"]);
}

#[test]
fn an_unknown_runtime_is_told_soon() {
    let mut world = World::new();
    world.submit("a", |run| run.spec.runtime = "nope".into());
    world.pass(SECOND);
    assert_eq!(world.settle(), ["a: runtime \"nope\" does not exist in namespace \"team\""]);
    world.runtime("nope", RuntimeView::default());
    world.pod_of("nope", "p", &[("runs", 1)]);
    assert_eq!(world.settle(), ["a>p"]);
}

#[test]
fn five_hundred_runs_on_four_slots_go_in_queue_order() {
    let mut world = World::new();
    world.pod("p1", &[("runs", 2)]);
    world.pod("p2", &[("runs", 2)]);
    let mut expected = Vec::new();
    for index in 0..500 {
        let (name, priority) = (format!("run-{index:03}"), index % 3);
        world.submit(&name, |run| run.spec.priority = Some(priority));
        expected.push((std::cmp::Reverse(priority), name));
        if index % 50 == 0 {
            world.mono += SECOND;
        }
    }
    // The first four were not bound yet: nothing was planned before all were there.
    expected.sort();
    while world.bound.len() < 500 {
        world.settle();
        let running: Vec<String> = world.bound[world.bound.len().saturating_sub(4)..].to_vec();
        for name in running {
            let uid = format!("{name}-uid");
            if !world.runs[&uid].status.as_ref().unwrap().phase.unwrap().is_terminal() {
                world.finish(&uid);
            }
        }
    }
    let order: Vec<String> = expected.into_iter().map(|(_, name)| name).collect();
    // Decisions are made one by one, so the order of binds is the order of the queue.
    assert_eq!(world.bound, order);
}

#[test]
fn the_least_loaded_pod_wins_and_ties_go_by_name() {
    let mut world = World::new();
    world.pod("b", &[("runs", 2)]);
    world.pod("a", &[("runs", 2)]);
    for name in ["1", "2", "3", "4", "5"] {
        world.submit(name, |_| ());
    }
    assert_eq!(world.settle(), ["1>a", "2>b", "3>a", "4>b"]);
    world.finish("2-uid");
    assert_eq!(world.settle(), ["5>b"]);
}

#[test]
fn amounts_must_fit_and_the_message_says_what_is_missing() {
    let mut world = World::new();
    world.pod("a", &[("runs", 4), ("nvidia.com/gpu", 1)]);
    world.pod("b", &[("runs", 4)]);
    world.pod("c", &[("runs", 4)]);
    world.change_pod("c", |pod| pod.ready = false);
    world.submit("one", |run| request(run, &[("nvidia.com/gpu", "1")]));
    assert_eq!(world.settle(), ["one>a"]);
    world.submit("two", |run| request(run, &[("nvidia.com/gpu", "1")]));
    assert_eq!(world.settle(), [""; 0]);
    world.pass(SECOND * 10);
    assert_eq!(
        world.settle(),
        [
            "two: 0 of 3 Pods fit: 1 lack nvidia.com/gpu (want 1, offered 0), 1 lack nvidia.com/gpu (want 1, free 0), 1 not ready"
        ]
    );
    world.finish("one-uid");
    assert_eq!(world.settle(), ["two>a"]);
}

#[test]
fn a_resource_that_nobody_has_is_told_from_one_that_is_short() {
    let mut world = World::new();
    let pod = world.pod("a", &[("runs", 4), ("example.com/token", 1)]);
    world.change_pod("a", |pod| pod.ready = false);
    world.submit("one", |run| request(run, &[("nvidia.com/gpu", "1")]));
    world.pass(SECOND * 2);
    assert_eq!(world.settle(), ["one: 0 of 1 Pods fit: 1 not ready"], "nobody has said what there is");

    world.change_pod("a", |pod| pod.ready = true);
    world.pass(SECOND * 40);
    let unknown = "one: unknown resource nvidia.com/gpu: Runtime \"bash\" offers example.com/token, runs";
    assert_eq!(world.settle(), [unknown]);
    world.scheduler.take_rejections();
    world.submit("two", |run| request(run, &[("a.b/c", "1"), ("d.e/f", "1"), ("example.com/token", "1")]));
    world.pass(SECOND * 2);
    let both = "two: unknown resources a.b/c, d.e/f: Runtime \"bash\" offers example.com/token, runs";
    assert_eq!(world.settle(), [both]);
    let rejections: Vec<_> = world.scheduler.take_rejections().into_keys().map(|r| r.reason).collect();
    assert_eq!(rejections, ["unknown"]);

    // Known and too little is something else, also where only the Runtime knows it.
    world.submit("many", |run| request(run, &[("example.com/token", "2")]));
    world.pass(SECOND * 2);
    let short = "many: 0 of 1 Pods fit: 1 lack example.com/token (want 2, offered 1)";
    assert_eq!(world.settle(), [short]);
    let kinds = [("nvidia.com/gpu".to_owned(), kruntimes_resources::Kind::Indexed)].into();
    world.runtime("bash", RuntimeView { kinds, ..RuntimeView::default() });
    world.pass(SECOND * 40);
    let done = world.settle();
    assert!(
        done.contains(&"one: 0 of 1 Pods fit: 1 lack nvidia.com/gpu (want 1, offered 0)".into()),
        "{done:?}"
    );

    // What a server brings along needs no definition: who waits for it goes at once.
    world.runtime("bash", RuntimeView::default());
    let allocatable = amounts(&[("nvidia.com/gpu", 1)]);
    let instance = InstanceView { namespace: NS.into(), name: "a".into(), pod, allocatable };
    let now = world.now();
    world.scheduler.instance_seen(instance, now);
    assert!(world.settle().contains(&"one>a".into()));
}

#[test]
fn what_an_instance_says_overrules_the_annotations() {
    let mut world = World::new();
    let pod = world.pod("a", &[("runs", 1), ("tokens", 5)]);
    let instance = |gpus| InstanceView {
        namespace: NS.into(),
        name: "a".into(),
        pod: pod.clone(),
        allocatable: amounts(&[("nvidia.com/gpu", gpus)]),
    };
    world.submit("one", |run| request(run, &[("nvidia.com/gpu", "2"), ("tokens", "5")]));
    assert_eq!(world.settle(), [""; 0]);
    let now = world.now();
    world.scheduler.instance_seen(instance(1), now);
    assert_eq!(world.settle(), [""; 0]);
    world.scheduler.instance_seen(instance(2), now);
    assert_eq!(world.settle(), ["one>a"]);
}

#[test]
fn wrong_requests_end_the_run_and_name_the_field() {
    let mut world = World::new();
    world.pod("a", &[("runs", 1)]);
    world.submit("half", |run| request(run, &[("nvidia.com/gpu", "0.5")]));
    let done = world.settle();
    assert!(done[0].starts_with("half! spec.resources.requests: resource \"nvidia.com/gpu\""), "{done:?}");
    let run = &world.runs["half-uid"];
    let condition = &run.status.as_ref().unwrap().conditions[0];
    assert_eq!(condition.reason, "InvalidResources");
    world.submit("lost", |run| {
        beside(run, vec![AffinityTerm { label_selector: LabelSelector::default(), ..term("a", "b") }], vec![])
    });
    assert_eq!(world.settle(), ["lost! spec.affinity: runAffinity: an empty selector selects nothing"]);
}

#[test]
fn a_ceiling_that_comes_later_frees_nothing_of_what_is_held() {
    let mut world = World::new();
    world.pod("a", &[("runs", 3)]);
    world.submit("big", |run| request(run, &[("runs", "3")]));
    assert_eq!(world.settle(), ["big>a"]);
    let requests = [("runs".to_owned(), Quantity("1".into()))].into();
    let maximums = Some(RunBounds { requests, ..RunBounds::default() });
    world.runtime("bash", RuntimeView { maximums, ..RuntimeView::default() });
    world.submit("small", |_| ());
    assert_eq!(world.settle(), [""; 0]);
    world.finish("big-uid");
    assert_eq!(world.settle(), ["small>a"]);
}

#[test]
fn a_stale_heartbeat_stops_binding_until_it_beats_again() {
    let mut world = World::new();
    world.pod("a", &[("runs", 1)]);
    world.mono += SECOND * 24;
    world.submit("one", |_| ());
    assert_eq!(world.settle(), ["one>a"]);
    world.finish("one-uid");
    world.mono += SECOND;
    world.submit("two", |_| ());
    assert_eq!(world.settle(), [""; 0]);
    world.mono += SECOND;
    assert_eq!(world.settle(), ["two: 0 of 1 Pods fit: 1 without a heartbeat"]);
    world.pass(SECOND);
    assert_eq!(world.settle(), ["two>a"]);
}

#[test]
fn a_heartbeat_that_was_old_when_first_seen_counts_once_it_changes() {
    let mut world = World::new();
    world.pod("a", &[("runs", 1)]);
    let mut view = world.pods["a"].clone();
    (view.uid, view.name, view.beat) =
        (PodUid::from("old"), "old".into(), Some(world.now().wall - SECOND * 60));
    let now = world.now();
    world.scheduler.pod_gone(&PodUid::from("a-uid"), now);
    world.scheduler.pod_seen(view.clone(), now);
    world.submit("one", |_| ());
    assert_eq!(world.settle(), [""; 0]);
    view.beat = Some(world.now().wall - SECOND * 50);
    world.scheduler.pod_seen(view, now);
    assert_eq!(world.settle(), ["one>old"]);
}

#[test]
fn small_runs_pass_a_big_one_for_thirty_seconds() {
    let mut world = World::new();
    world.pod("a", &[("runs", 4)]);
    for name in ["s1", "s2", "s3"] {
        world.submit(name, |_| ());
    }
    world.settle();
    world.mono += SECOND;
    world.submit("big", |run| request(run, &[("runs", "3")]));
    world.mono += SECOND;
    world.submit("s4", |_| ());
    assert_eq!(world.settle(), ["s4>a"], "a small one passes");
    world.submit("s5", |_| ());
    world.pass(SECOND * 28);
    world.finish("s1-uid");
    assert!(world.settle().contains(&"s5>a".into()), "not 30 s yet");
    world.submit("s6", |_| ());
    world.pass(SECOND * 2);
    world.settle();
    world.finish("s2-uid");
    world.finish("s3-uid");
    assert_eq!(world.settle(), [""; 0], "two slots are free and kept");
    world.finish("s4-uid");
    assert_eq!(world.settle(), ["big>a"]);
    world.finish("s5-uid");
    assert_eq!(world.settle(), ["s6>a"]);
}

#[test]
fn a_more_urgent_run_is_not_held_up_by_a_reservation() {
    let mut world = World::new();
    world.pod("a", &[("runs", 4)]);
    for name in ["s1", "s2", "s3"] {
        world.submit(name, |_| ());
    }
    world.settle();
    world.submit("big", |run| request(run, &[("runs", "4")]));
    world.submit("t", |run| request(run, &[("runs", "2")]));
    world.pass(SECOND * 31);
    world.settle();
    world.finish("s1-uid");
    assert_eq!(world.settle(), [""; 0]);
    world.submit("urgent", |run| run.spec.priority = Some(1));
    assert_eq!(world.settle(), ["urgent>a"]);
}

#[test]
fn affinity_puts_beside_and_away() {
    let mut world = World::new();
    world.pod("a", &[("runs", 3)]);
    world.pod("b", &[("runs", 3)]);
    world.submit("first", |run| {
        label(run, "app", "x");
        beside(run, vec![term("app", "x")], vec![]);
    });
    assert_eq!(world.settle(), ["first>a"], "the first of a set may go anywhere");
    world.submit("second", |run| {
        label(run, "app", "x");
        beside(run, vec![term("app", "x")], vec![]);
    });
    assert_eq!(world.settle(), ["second>a"]);
    world.submit("third", |run| away(run, vec![term("app", "x")]));
    assert_eq!(world.settle(), ["third>b"]);
    world.submit("alone", |run| {
        label(run, "app", "y");
        away(run, vec![term("app", "x")]);
        beside(run, vec![term("app", "z")], vec![]);
    });
    world.pass(SECOND);
    assert_eq!(world.settle(), ["alone: 0 of 2 Pods fit: 2 excluded by spec.affinity"]);
    world.submit("z", |run| label(run, "app", "z"));
    assert_eq!(world.settle(), ["z>b", "alone>b"]);
}

#[test]
fn preference_and_least_load_weigh_the_same() {
    let mut world = World::new();
    world.pod("a", &[("runs", 4)]);
    world.pod("b", &[("runs", 4)]);
    world.submit("x", |run| label(run, "app", "x"));
    assert_eq!(world.settle(), ["x>a"]);
    let near = |run: &mut Run| {
        beside(run, vec![], vec![WeightedAffinityTerm { weight: 1, run_affinity_term: term("app", "x") }]);
    };
    // 100 + 0 on the loaded one, 0 + 100 on the empty one: the name decides.
    world.submit("y", near);
    assert_eq!(world.settle(), ["y>a"]);
    world.finish("x-uid");
    world.submit("z", near);
    assert_eq!(world.settle(), ["z>b"], "nobody to be near to: the least loaded");
}

#[test]
fn submitters_do_not_share_a_pod_where_they_must_not() {
    let mut world = World::new();
    world.runtime("bash", RuntimeView { tenancy: Tenancy::SingleSubmitter, ..RuntimeView::default() });
    world.pod("a", &[("runs", 4)]);
    let by = |who: &'static str| move |run: &mut Run| run.spec.submitter = Some(who.into());
    world.submit("1", by("eve"));
    world.submit("2", by("bob"));
    world.submit("3", by("eve"));
    assert_eq!(world.settle(), ["1>a", "3>a"]);
    world.pass(SECOND * 31);
    assert_eq!(world.settle(), ["2: 0 of 1 Pods fit: 1 in use by another submitter"]);
    // Bob has waited long enough: Eve may not go on for ever.
    world.submit("4", by("eve"));
    assert_eq!(world.settle(), [""; 0]);
    world.finish("1-uid");
    world.finish("3-uid");
    assert_eq!(world.settle(), ["2>a"]);
}

#[test]
fn a_run_without_a_submitter_shares_a_single_submitter_pod_with_nobody() {
    let mut world = World::new();
    world.runtime("bash", RuntimeView { tenancy: Tenancy::SingleSubmitter, ..RuntimeView::default() });
    world.pod("a", &[("runs", 4)]);
    world.submit("1", |_| {});
    world.submit("2", |run| run.spec.submitter = Some(String::new()));
    world.submit("3", |run| run.spec.submitter = Some("eve".into()));
    assert_eq!(world.settle(), ["1>a"], "the second may be somebody else's");
    world.pass(SECOND * 31);
    let said = world.settle();
    assert!(
        said.iter()
            .any(|line| line.contains("2: 0 of 1 Pods fit: 1 in use, which a Run without spec.submitter")),
        "{said:?}"
    );
    world.finish("1-uid");
    assert_eq!(world.settle(), ["2>a"]);
    world.finish("2-uid");
    assert_eq!(world.settle(), ["3>a"]);
}

#[test]
fn suspended_waiting_and_cancelled_runs() {
    let mut world = World::new();
    world.pod("a", &[("runs", 9)]);
    world.submit("s", |run| run.spec.suspend = Some(true));
    assert_eq!(world.settle(), [""; 0]);
    world.change("s-uid", |run| run.spec.suspend = None);
    assert_eq!(world.settle(), ["s>a"]);
    let later = world.now().wall + SECOND * 5;
    world.submit("w", |run| {
        run.status.get_or_insert_default().next_attempt_time =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime(later));
    });
    assert_eq!(world.settle(), [""; 0]);
    assert!(world.scheduler.plan(world.now(), 1).next.is_some_and(|next| next <= SECOND * 5));
    world.pass(SECOND * 5);
    assert_eq!(world.settle(), ["w>a"]);
    world.submit("c", |run| (run.spec.cancel_requested, run.spec.suspend) = (Some(true), Some(true)));
    assert_eq!(world.settle(), ["c CancelUnassigned"]);
    assert_eq!(world.runs["c-uid"].status.as_ref().unwrap().phase, Some(Phase::Cancelled));
}

#[test]
fn a_run_that_could_not_start_in_time_ends() {
    let mut world = World::new();
    world.submit("a", |run| run.spec.pending_timeout = Some("5s".into()));
    world.pass(SECOND * 2);
    world.settle();
    world.pass(SECOND * 3);
    let done = world.settle();
    assert!(done.contains(&"a PendingTimeout".to_owned()), "{done:?}");
    assert_eq!(world.runs["a-uid"].status.as_ref().unwrap().reason, Some(Reason::PendingTimeout));
    let message = world.runs["a-uid"].status.as_ref().unwrap().message.clone().unwrap_or_default();
    assert!(message.starts_with("not started within pendingTimeout: "), "why is kept: {message}");
}

#[test]
fn a_retry_avoids_the_pod_of_the_last_infrastructure_end() {
    let mut world = World::new();
    world.pod("a", &[("runs", 2)]);
    world.pod("b", &[("runs", 2)]);
    world.submit("other", |_| ());
    world.submit("one", |run| {
        let policy =
            RetryPolicy { max_attempts: Some(3), backoff: Some("1s".into()), ..RetryPolicy::default() };
        run.spec.retry_policy = Some(policy);
    });
    assert_eq!(world.settle(), ["one>a", "other>b"]);
    let lost =
        |pod: &str| Event::PodLost { pod: PodUid::from(pod), lost: Lost::Unhealthy, message: "m".into() };
    world.submit("more", |_| ());
    assert_eq!(world.settle(), ["more>a"]);
    world.event("one-uid", &lost("a-uid"));
    world.pass(SECOND * 2);
    assert_eq!(world.settle(), ["one>b"], "though a is as free");
    world.event("one-uid", &lost("b-uid"));
    world.change_pod("a", |pod| pod.deleting = true);
    world.pass(SECOND * 3);
    assert_eq!(world.settle(), ["one>b"], "there is no other");
}

#[test]
fn after_no_room_the_pod_is_offered_again_when_its_inventory_changed() {
    let mut world = World::new();
    world.pod("a", &[("runs", 2)]);
    world.submit("one", |_| ());
    world.submit("two", |_| ());
    assert_eq!(world.settle(), ["one>a", "two>a"]);
    let hand_back = |world: &mut World, uid: &str| {
        let state = State::of(&world.runs[uid]).unwrap();
        let fence = state.bound().unwrap().1.clone();
        world.event(uid, &Event::HandBack { fence, message: "no room".into(), delay: SECOND });
    };
    hand_back(&mut world, "two-uid");
    world.pass(SECOND * 2);
    assert_eq!(world.settle(), [""; 0]);
    world.finish("one-uid");
    assert_eq!(world.settle(), ["two>a"], "somebody left");
    hand_back(&mut world, "two-uid");
    world.pass(SECOND * 9);
    assert_eq!(world.settle(), [""; 0]);
    world.pass(SECOND * 2);
    assert_eq!(world.settle(), ["two>a"], "not for ever");
}

#[test]
fn queues_take_turns() {
    let mut world = World::new();
    world.runtime("other", RuntimeView::default());
    world.pod("a", &[("runs", 10_000)]);
    world.pod_of("other", "b", &[("runs", 10_000)]);
    for index in 0..1000 {
        world.submit(&format!("long-{index}"), |_| ());
    }
    for index in 0..10 {
        world.submit(&format!("short-{index}"), |run| run.spec.runtime = "other".into());
    }
    let plan = world.scheduler.plan(world.now(), 20);
    let short = |decision: &&Decision| decision.run.spec.runtime == "other";
    assert_eq!(plan.decisions.iter().filter(short).count(), 10);
}

#[test]
fn a_conflict_waits_for_the_newer_version() {
    let mut world = World::new();
    world.pod("a", &[("runs", 1)]);
    world.submit("one", |_| ());
    let plan = world.scheduler.plan(world.now(), 8);
    // Somebody writes, and the watch is late.
    world.version += 1;
    let version = world.version.to_string();
    world.runs.get_mut("one-uid").unwrap().metadata.resource_version = Some(version);
    assert!(!world.apply(&plan.decisions[0]));
    assert_eq!(world.settle(), [""; 0]);
    world.show("one-uid");
    assert_eq!(world.settle(), ["one>a"]);
}

/// While the reason why it waits is being written, nobody of its kind passes it.
#[test]
fn an_explanation_in_flight_does_not_cost_the_place_in_the_queue() {
    for show_first in [false, true] {
        let mut world = World::new();
        world.submit("one", |_| ());
        world.submit("two", |_| ());
        world.pass(SECOND);
        let plan = world.scheduler.plan(world.now(), 1);
        assert!(matches!(plan.decisions[0].event, Event::Unschedulable { .. }), "{plan:?}");
        world.pod("a", &[("runs", 1)]);
        let bound = |plan: &Plan| plan.decisions.iter().any(|d| matches!(d.event, Event::Bind { .. }));
        let now = world.now();
        assert!(!bound(&world.scheduler.plan(now, 8)));
        world.verify();
        if show_first {
            // The watch is faster than the answer.
            world.apply_silently(&plan.decisions[0]);
            world.show("one-uid");
            assert!(!bound(&world.scheduler.plan(now, 8)));
            world.scheduler.settled(&RunUid::from("one-uid"), Outcome::Written, now);
        } else {
            assert!(world.apply(&plan.decisions[0]));
            assert!(!bound(&world.scheduler.plan(now, 8)));
            world.show("one-uid");
        }
        assert_eq!(world.settle(), ["one>a"], "{show_first}");
    }
}

#[test]
fn an_echo_of_an_older_version_does_not_bind_twice() {
    let mut world = World::new();
    world.pod("a", &[("runs", 2)]);
    world.submit("one", |_| ());
    let old = world.runs["one-uid"].clone();
    let plan = world.scheduler.plan(world.now(), 8);
    assert!(world.apply(&plan.decisions[0]));
    let now = world.now();
    world.scheduler.run_seen(&old, now);
    world.verify();
    assert_eq!(world.settle(), [""; 0]);
    world.show("one-uid");
    assert_eq!(world.settle(), [""; 0]);
}

#[test]
fn a_bind_whose_answer_was_lost_keeps_its_room() {
    let mut world = World::new();
    world.pod("a", &[("runs", 1)]);
    let one = world.submit("one", |_| ());
    let plan = world.scheduler.plan(world.now(), 1);
    world.submit("two", |_| ());
    // The first try arrived, its answer did not, and the second try is a conflict.
    let status = transition(&plan.decisions[0].run, &plan.decisions[0].event, world.now().wall).unwrap();
    world.version += 1;
    let version = world.version.to_string();
    let run = world.runs.get_mut(&one).unwrap();
    (run.status, run.metadata.resource_version) = (Some(status), Some(version));
    let now = world.now();
    world.scheduler.settled(&RunUid::from(one.as_str()), Outcome::Conflict, now);
    world.pass(SECOND * 8);
    assert_eq!(world.settle(), [""; 0]);
    world.show(&one);
    assert_eq!(world.settle(), [""; 0]);
    world.finish(&one);
    assert_eq!(world.settle(), ["two>a"]);
}

#[test]
fn a_run_that_is_being_deleted_is_not_bound() {
    let mut world = World::new();
    world.pod("a", &[("runs", 1)]);
    let deleted = Time(world.now().wall);
    world.submit("one", |run| run.metadata.deletion_timestamp = Some(deleted));
    world.pass(SECOND * 30);
    assert_eq!(world.settle(), [""; 0]);
}

#[test]
fn the_next_of_a_kind_gets_the_room_of_one_that_gave_up() {
    let mut world = World::new();
    world.pod("a", &[("runs", 3)]);
    for name in ["s1", "s2"] {
        world.submit(name, |_| ());
    }
    world.settle();
    for name in ["big1", "big2"] {
        world.submit(name, |run| request(run, &[("runs", "3")]));
    }
    world.submit("pair", |run| request(run, &[("runs", "2")]));
    world.pass(SECOND * 31);
    world.settle();
    world.change("big1-uid", |run| run.spec.cancel_requested = Some(true));
    assert_eq!(world.settle(), ["big1 CancelUnassigned"]);
    world.submit("s3", |_| ());
    assert_eq!(world.settle(), [""; 0], "the free slot is kept for the second big one");
    world.finish("s1-uid");
    assert_eq!(world.settle(), [""; 0]);
    world.finish("s2-uid");
    assert_eq!(world.settle(), ["big2>a"]);
}
