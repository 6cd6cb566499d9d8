//! Each rule of the protocol once by hand, then all of them against random events.

use std::collections::{HashMap, HashSet};

use proptest::prelude::*;

use super::*;
use crate::supervisor::wire::{Counters, Ended};

const BOUNDS: Bounds = Bounds { active: 3, finished: 4, grace: Duration::from_secs(10) };

fn id(name: &str) -> ExecutionId {
    ExecutionId::from(name)
}

fn fence(attempt: u32, assignment: u64) -> Fence {
    Fence { attempt, assignment }
}

fn table() -> Table<u32> {
    Table::new(BOUNDS)
}

fn accept(table: &mut Table<u32>, name: &str, fence: Fence) -> Slot {
    match table.execute(&id(name), fence, Limits::default(), || 0) {
        Ok(Accepted::New { slot, .. }) => slot,
        other => panic!("{name} was not accepted: {other:?}"),
    }
}

/// Nothing but the end is known.
fn found(end: Ended) -> Found {
    Found { end, ..Found::default() }
}

fn exit(code: i32) -> Ended {
    Ended { at: 20, code, proven: true, ..Ended::default() }
}

fn outcome(table: &Table<u32>, name: &str) -> Outcome {
    match &table.find(&id(name), Fence::default()).expect("known").state {
        State::Finished(outcome) => (**outcome).clone(),
        other => panic!("{name} is {other:?}"),
    }
}

#[test]
fn the_same_attempt_is_answered_again_and_started_once() {
    let mut table = table();
    let slot = accept(&mut table, "a", fence(1, 7));
    let again = |table: &mut Table<u32>| table.execute(&id("a"), fence(1, 7), Limits::default(), || 9);
    assert_eq!(again(&mut table), Ok(Accepted::Same(0)));
    table.started(slot, 1);
    assert_eq!(again(&mut table), Ok(Accepted::Same(0)));
    table.ended(slot, found(exit(0)));
    assert_eq!(again(&mut table), Ok(Accepted::Same(0)), "also after its end");
}

#[test]
fn newer_attempts_replace_finished_ones_only() {
    let mut table = table();
    let slot = accept(&mut table, "a", fence(2, 7));
    table.started(slot, 1);
    let run = |table: &mut Table<u32>, f| table.execute(&id("a"), f, Limits::default(), || 0);
    assert_eq!(run(&mut table, fence(3, 8)), Err(Refusal::StillRunning { fence: fence(2, 7) }));
    assert_eq!(run(&mut table, fence(2, 8)), Err(Refusal::StillRunning { fence: fence(2, 7) }));
    let older = |given| Err(Refusal::Older { known: fence(2, 7), given });
    assert_eq!(run(&mut table, fence(1, 7)), older(fence(1, 7)));
    assert_eq!(run(&mut table, fence(2, 6)), older(fence(2, 6)));
    assert_eq!(run(&mut table, fence(0, 0)), older(fence(0, 0)));
    table.ended(slot, found(exit(1)));
    assert!(matches!(run(&mut table, fence(2, 8)), Ok(Accepted::New { .. })), "handed back, bound again");
    assert_eq!(table.ended(slot, found(exit(0))), [], "a late event of the replaced one");
    assert_eq!(table.stale(), 1);
}

#[test]
fn clients_without_attempts_replace_what_has_finished() {
    let mut table = table();
    let slot = accept(&mut table, "a", fence(0, 0));
    table.started(slot, 1);
    let again = table.execute(&id("a"), fence(0, 0), Limits::default(), || 0);
    assert_eq!(again, Ok(Accepted::Same(0)));
    table.ended(slot, found(exit(1)));
    accept(&mut table, "a", fence(0, 0));
}

#[test]
fn stop_cause_is_that_of_the_stop_only_if_it_reached_the_command() {
    let stopped = Ended { signal: 15, stopped: true, ..exit(0) };
    for (end, cause) in [(stopped, StopCause::Cancelled), (exit(0), StopCause::Exited)] {
        let mut table = table();
        let slot = accept(&mut table, "a", fence(1, 1));
        table.started(slot, 1);
        let actions = table.cancel(&id("a"), fence(1, 1), StopCause::Cancelled, None).expect("cancels");
        assert_eq!(actions, [Action::Signal(slot, 15), Action::Arm(slot, Timer::Kill, BOUNDS.grace)]);
        table.ended(slot, found(end));
        assert_eq!(outcome(&table, "a").cause, cause);
    }
}

#[test]
fn cancel_is_idempotent_keeps_the_first_cause_and_may_shorten_the_grace() {
    let mut table = table();
    let slot = accept(&mut table, "a", fence(1, 1));
    table.started(slot, 1);
    let mut cancel = |cause, grace: u64| {
        table.cancel(&id("a"), fence(1, 1), cause, Some(Duration::from_secs(grace))).expect("cancels")
    };
    assert_eq!(cancel(StopCause::Evicted, 5).len(), 2);
    assert_eq!(cancel(StopCause::Cancelled, 5), []);
    assert_eq!(cancel(StopCause::Cancelled, 9), []);
    assert_eq!(cancel(StopCause::Cancelled, 1), [Action::Arm(slot, Timer::Kill, Duration::from_secs(1))]);
    assert_eq!(table.timer(slot, Timer::Kill), [Action::Kill(slot)]);
    table.ended(slot, found(Ended { signal: 9, stopped: true, ..exit(0) }));
    assert_eq!(outcome(&table, "a").cause, StopCause::Evicted);
    assert_eq!(table.cancel(&id("a"), fence(1, 1), StopCause::Cancelled, None), Ok(vec![]));
    assert_eq!(table.timer(slot, Timer::Kill), []);
}

#[test]
fn a_stop_before_the_start_prevents_it_or_follows_it() {
    let mut table = table();
    let early = accept(&mut table, "early", fence(1, 1));
    table.cancel(&id("early"), fence(1, 1), StopCause::Cancelled, None).expect("cancels");
    let (may, actions) = table.may_start(early, 5);
    assert!(!may);
    assert_eq!(actions, [Action::Publish(early)]);
    assert_eq!(outcome(&table, "early").started_at, 0);

    let late = accept(&mut table, "late", fence(1, 1));
    assert!(table.may_start(late, 5).0);
    table.cancel(&id("late"), fence(1, 1), StopCause::Cancelled, None).expect("cancels");
    let actions = table.started(late, 6);
    assert_eq!(actions[..2], [Action::Publish(late), Action::Signal(late, 15)]);
}

#[test]
fn the_end_of_time_is_a_timeout_and_a_warning_comes_before() {
    let mut table = table();
    let limits = Limits {
        end_after: Some(Duration::from_secs(5)),
        grace: None,
        warning: Some(Warning { signal: 10, after: Duration::from_secs(3) }),
    };
    let Ok(Accepted::New { slot, actions, .. }) = table.execute(&id("a"), fence(1, 1), limits, || 0) else {
        panic!("not accepted");
    };
    assert_eq!(
        actions,
        [
            Action::Arm(slot, Timer::End, Duration::from_secs(5)),
            Action::Arm(slot, Timer::Warn(10), Duration::from_secs(3))
        ]
    );
    table.started(slot, 1);
    assert_eq!(table.timer(slot, Timer::Warn(10)), [Action::Signal(slot, 10)]);
    assert_eq!(table.timer(slot, Timer::End)[0], Action::Signal(slot, 15));
    assert_eq!(table.timer(slot, Timer::Warn(10)), [], "no warning after the end");
    table.ended(slot, found(Ended { signal: 15, stopped: true, ..exit(0) }));
    assert_eq!(outcome(&table, "a").cause, StopCause::Timeout);
}

#[test]
fn forget_refuses_what_runs_and_knows_no_unknown() {
    let mut table = table();
    let slot = accept(&mut table, "a", fence(2, 1));
    assert_eq!(table.forget(&id("a"), fence(2, 1)), Err(Refusal::StillRunning { fence: fence(2, 1) }));
    assert_eq!(table.forget(&id("b"), fence(1, 1)), Ok(None));
    table.start_failed(slot, 3, 127, "no such file".into());
    assert!(matches!(table.forget(&id("a"), fence(1, 1)), Err(Refusal::Older { .. })));
    assert_eq!(table.forget(&id("a"), fence(3, 1)), Ok(None), "that attempt is not here");
    assert_eq!(table.len(), 1);
    assert_eq!(table.forget(&id("a"), fence(2, 1)), Ok(Some(0)));
    assert_eq!(table.len(), 0);
}

#[test]
fn a_broken_bound_ends_it_and_is_told_unless_something_else_ended_it_first() {
    let breach = || Breach { cause: StopCause::PidsExceeded, message: "too many".into() };
    let mut table = table();
    // Seen while it runs: it is killed, at once.
    let slot = accept(&mut table, "seen", fence(1, 1));
    table.started(slot, 1);
    assert_eq!(table.exceeded(slot, breach()), [Action::Arm(slot, Timer::Kill, Duration::ZERO)]);
    assert_eq!(table.exceeded(slot, breach()), [], "once");
    assert_eq!(table.timer(slot, Timer::Kill), [Action::Kill(slot)]);
    table.ended(slot, found(Ended { signal: 9, stopped: true, ..exit(0) }));
    let told = |outcome: Outcome| (outcome.cause, outcome.message);
    assert_eq!(told(outcome(&table, "seen")), (StopCause::PidsExceeded, "too many".into()));
    // Found at its end, whatever its exit code says.
    let slot = accept(&mut table, "found", fence(1, 1));
    table.started(slot, 1);
    table.ended(slot, Found { breach: Some(breach()), ..found(exit(0)) });
    assert_eq!(told(outcome(&table, "found")), (StopCause::PidsExceeded, "too many".into()));
    // Stopped by somebody before.
    let slot = accept(&mut table, "stopped", fence(1, 1));
    table.started(slot, 1);
    table.cancel(&id("stopped"), fence(1, 1), StopCause::Cancelled, None).expect("running");
    let kill = Action::Arm(slot, Timer::Kill, Duration::ZERO);
    assert_eq!(table.exceeded(slot, breach()), [kill], "no grace for what has no limit meanwhile");
    assert_eq!(table.exceeded(slot, breach()), [], "once");
    let end = Ended { signal: 15, stopped: true, ..exit(0) };
    table.ended(slot, Found { breach: Some(breach()), ..found(end) });
    assert_eq!(outcome(&table, "stopped").cause, StopCause::Cancelled);
}

#[test]
fn room_is_bounded_and_a_stopping_server_takes_nothing_new() {
    let mut table = table();
    let slots: Vec<_> = ["a", "b", "c"].map(|name| accept(&mut table, name, fence(1, 1))).into();
    let run = |table: &mut Table<u32>, name| table.execute(&id(name), fence(1, 1), Limits::default(), || 0);
    assert_eq!(run(&mut table, "d"), Err(Refusal::Full { active: 3 }));
    for slot in slots {
        table.ended(slot, found(exit(0)));
    }
    let slot = accept(&mut table, "d", fence(1, 1));
    table.ended(slot, found(exit(0)));
    assert_eq!(run(&mut table, "e"), Err(Refusal::NotForgotten { finished: 4 }));
    let newer = table.execute(&id("d"), fence(2, 2), Limits::default(), || 0);
    assert!(matches!(newer, Ok(Accepted::New { .. })), "a retry takes the place of its finished attempt");
    table.drain();
    assert_eq!(run(&mut table, "f"), Err(Refusal::Draining));
    assert_eq!(run(&mut table, "a"), Ok(Accepted::Same(0)), "what is known is still answered");
}

#[test]
fn a_killed_supervisor_is_told_as_such_with_what_was_last_seen() {
    let mut table = table();
    let slot = accept(&mut table, "a", fence(1, 1));
    table.started(slot, 1);
    let counters = Counters { user: 5, ..Counters::default() };
    let measured = Measured { rusage: Some(counters), ..Measured::default() };
    assert_eq!(table.sampled(slot, measured), [Action::Publish(slot)]);
    table.lost(slot, 9, Some(4), true, GroupCounters::default());
    let outcome = outcome(&table, "a");
    assert_eq!((outcome.cause, outcome.measured.rusage), (StopCause::ServerLost, Some(counters)));
    assert!(outcome.proven && !outcome.whole, "what was reaped since is not known");
    // One that was being stopped ends for that.
    let slot = accept(&mut table, "b", fence(1, 1));
    table.started(slot, 1);
    table.timer(slot, Timer::End);
    let seven = Some(7);
    let group = GroupCounters {
        user: seven,
        system: seven,
        memory_peak: seven,
        read: seven,
        written: seven,
        ..GroupCounters::default()
    };
    table.lost(slot, 9, Some(4), true, group);
    let outcome = self::outcome(&table, "b");
    assert_eq!((outcome.cause, outcome.whole), (StopCause::Timeout, true), "its groups know all of it");
}

/// Something that happens; small numbers, so that ids, fences and slots meet often.
#[derive(Clone, Debug)]
enum Event {
    Execute(u8, Fence),
    Refuse(u64),
    MayStart(u64),
    Started(u64),
    StartFailed(u64),
    Ended(u64, bool),
    Lost(u64),
    Sampled(u64),
    Cancel(u8, Fence),
    Forget(u8, Fence),
    Timer(u64, u8),
    StopAll,
}

fn event() -> impl Strategy<Value = Event> {
    let name = 0..5u8;
    let slot = 0..24u64;
    let fences = (0..4u32, 0..3u64).prop_map(|(attempt, assignment)| fence(attempt, assignment));
    prop_oneof![
        6 => (name.clone(), fences.clone()).prop_map(|(n, f)| Event::Execute(n, f)),
        1 => slot.clone().prop_map(Event::Refuse),
        4 => slot.clone().prop_map(Event::MayStart),
        4 => slot.clone().prop_map(Event::Started),
        1 => slot.clone().prop_map(Event::StartFailed),
        4 => (slot.clone(), any::<bool>()).prop_map(|(s, b)| Event::Ended(s, b)),
        1 => slot.clone().prop_map(Event::Lost),
        1 => slot.clone().prop_map(Event::Sampled),
        3 => (name.clone(), fences.clone()).prop_map(|(n, f)| Event::Cancel(n, f)),
        3 => (name, fences).prop_map(|(n, f)| Event::Forget(n, f)),
        2 => (slot, 0..3u8).prop_map(|(s, t)| Event::Timer(s, t)),
        1 => Just(Event::StopAll),
    ]
}

/// What the test remembers on its own.
#[derive(Default)]
struct Model {
    finished: HashMap<Slot, Outcome>,
    armed: HashSet<Slot>,
    accepted: u64,
}

impl Model {
    fn step(&mut self, table: &mut Table<u32>, event: Event) {
        let grace = Duration::from_secs(1);
        let actions = match event {
            Event::Execute(name, fence) => self.execute(table, &id(&name.to_string()), fence),
            Event::Refuse(slot) => {
                if table.at(Slot(slot)).is_some_and(|(_, e)| matches!(e.state, State::Starting { .. })) {
                    table.refused(Slot(slot));
                }
                Vec::new()
            }
            Event::MayStart(slot) => {
                let stopped = table.at(Slot(slot)).is_some_and(|(_, e)| {
                    matches!(
                        e.state,
                        State::Starting { stop: Some(_) } | State::Running { .. } | State::Finished(_)
                    )
                });
                let (may, actions) = table.may_start(Slot(slot), 1);
                assert!(!(may && stopped), "nothing stopped, running or finished may start");
                actions
            }
            Event::Started(slot) => table.started(Slot(slot), 2),
            Event::StartFailed(slot) => table.start_failed(Slot(slot), 3, 127, String::new()),
            Event::Ended(slot, stopped) => table.ended(Slot(slot), found(Ended { stopped, ..exit(0) })),
            Event::Lost(slot) => table.lost(Slot(slot), 4, None, true, GroupCounters::default()),
            Event::Sampled(slot) => table.sampled(Slot(slot), Measured::default()),
            Event::Cancel(name, fence) => table
                .cancel(&id(&name.to_string()), fence, StopCause::Cancelled, Some(grace))
                .unwrap_or_default(),
            Event::Forget(name, fence) => {
                let name = id(&name.to_string());
                let state = table.find(&name, fence).map(|e| matches!(e.state, State::Finished(_)));
                match table.forget(&name, fence) {
                    Ok(Some(_)) => assert_eq!(state, Ok(true), "only finished ones are dropped"),
                    Ok(None) => assert_eq!(state, Err(Refusal::Unknown)),
                    Err(_) => assert_ne!(state, Ok(true)),
                }
                Vec::new()
            }
            Event::Timer(slot, 0) => table.timer(Slot(slot), Timer::End),
            Event::Timer(slot, 1) => table.timer(Slot(slot), Timer::Warn(10)),
            Event::Timer(slot, _) => table.timer(Slot(slot), Timer::Kill),
            Event::StopAll => table.stop_all(StopCause::Evicted, grace),
        };
        for action in actions {
            self.act(table, action);
        }
        self.check(table);
    }

    fn execute(&mut self, table: &mut Table<u32>, name: &ExecutionId, fence: Fence) -> Vec<Action> {
        let before =
            table.find(name, Fence::default()).map(|e| (e.fence, matches!(e.state, State::Finished(_))));
        match table.execute(name, fence, Limits::default(), || 0) {
            Ok(Accepted::New { slot, actions, .. }) => {
                assert_eq!(slot.0, self.accepted, "slots are never used twice");
                self.accepted += 1;
                if let Ok((known, finished)) = before {
                    assert!(finished, "only a finished attempt is replaced");
                    assert!(fence.is_baseline() || fence.against(known) == Age::Newer);
                }
                actions
            }
            Ok(Accepted::Same(_)) => {
                assert_eq!(before.map(|(known, _)| fence.against(known)), Ok(Age::Same));
                Vec::new()
            }
            Err(_) => Vec::new(),
        }
    }

    fn act(&mut self, table: &Table<u32>, action: Action) {
        match action {
            Action::Arm(slot, Timer::Kill, _) => {
                self.armed.insert(slot);
            }
            Action::Kill(slot) => assert!(self.armed.contains(&slot), "no kill without a grace before it"),
            Action::Signal(slot, _) => {
                let running = table.at(slot).is_some_and(|(_, e)| matches!(e.state, State::Running { .. }));
                assert!(running, "only what runs is signalled");
            }
            Action::Arm(..) | Action::Publish(_) => {}
        }
    }

    /// Everything that must hold after any event.
    fn check(&mut self, table: &Table<u32>) {
        let mut active = 0;
        for (name, entry) in table.iter() {
            assert_eq!(table.at(entry.slot).map(|(found, _)| found), Some(name), "slots lead home");
            match &entry.state {
                State::Finished(outcome) => {
                    let known = self.finished.entry(entry.slot).or_insert_with(|| (**outcome).clone());
                    assert_eq!(known, &**outcome, "a finished execution never changes");
                }
                State::Running { stop, .. } => {
                    active += 1;
                    assert!(!self.finished.contains_key(&entry.slot), "finished is final");
                    assert!(
                        stop.is_none() || self.armed.contains(&entry.slot),
                        "a stop always has its timer"
                    );
                }
                State::Starting { .. } => active += 1,
            }
        }
        assert_eq!(table.active(), active);
        assert!(active <= BOUNDS.active);
        assert_eq!(table.slots.len(), table.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn every_rule_holds_over_random_events(events in proptest::collection::vec(event(), 1..120)) {
        let mut table = table();
        let mut model = Model::default();
        for event in events {
            model.step(&mut table, event);
        }
    }
}
