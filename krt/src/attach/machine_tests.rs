use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::ObjectMeta;

use super::*;

struct Clock {
    start: Instant,
}

impl Clock {
    fn at(&self, milliseconds: u64) -> Instant {
        self.start + Duration::from_millis(milliseconds)
    }
}

fn machine(options: Options) -> (Machine, Clock) {
    let start = Instant::now();
    (Machine::new("a", "u1", options, start), Clock { start })
}

fn run(change: impl FnOnce(&mut RunStatus)) -> Event {
    let mut status = RunStatus::default();
    change(&mut status);
    let metadata = ObjectMeta { name: Some("a".into()), uid: Some("u1".into()), ..ObjectMeta::default() };
    Event::Run(Box::new(Run { metadata, status: Some(status), ..Run::default() }))
}

fn phase(phase: Phase) -> Event {
    run(|status| assigned(status, phase))
}

fn assigned(status: &mut RunStatus, phase: Phase) {
    status.phase = Some(phase);
    if phase == Phase::Pending {
        return;
    }
    status.assigned_pod = Some("p1".into());
    status.attempt = Some(1);
    status.assignment = Some(1);
    if phase != Phase::Scheduled {
        status.start_time = Some(MicroTime(Timestamp::UNIX_EPOCH));
    }
}

fn line(text: &str, attempt: i32) -> Line {
    Line {
        stream: Stream::Out,
        attempt: Some(attempt),
        time: None,
        offset: None,
        bytes: text.as_bytes().to_vec(),
    }
}

fn outcome(actions: &[Action]) -> Option<&Outcome> {
    actions.iter().find_map(|action| match action {
        Action::Done(outcome) => Some(outcome),
        _ => None,
    })
}

fn end(attempt: i32) -> Event {
    Event::Log(vec![Entry::End { attempt, assignment: None }])
}

fn output(text: &str) -> Event {
    Event::Log(vec![Entry::Output(line(text, 1))])
}

#[test]
fn output_is_shown_and_the_end_waits_for_it() {
    let (mut machine, clock) = machine(Options::default());
    assert_eq!(machine.handle(phase(Phase::Scheduled), clock.at(1)).last(), Some(&Action::Waiting(None)));
    assert!(machine.pods["p1"]);
    let actions = machine.handle(output("hi\n"), clock.at(2));
    assert_eq!(actions, [Action::Waiting(None), Action::Write(vec![line("hi\n", 1)])]);
    let actions = machine.handle(phase(Phase::Succeeded), clock.at(3));
    assert_eq!(outcome(&actions), None, "the log may still have more");
    let actions = machine.handle(end(1), clock.at(4));
    match outcome(&actions) {
        Some(Outcome::Ended { log_gone: false, cut_short: false, interrupted: false, .. }) => {}
        other => panic!("{other:?}"),
    }
    assert_eq!(machine.handle(Event::Tick, clock.at(5)), [], "nothing follows the end");
}

/// A Pod is opened once, although the Run changes many times there.
#[test]
fn each_pod_is_opened_once() {
    let (mut machine, clock) = machine(Options::default());
    let opened = |actions: Vec<Action>| actions.into_iter().filter(|a| matches!(a, Action::Open(_))).count();
    assert_eq!(opened(machine.handle(phase(Phase::Scheduled), clock.at(1))), 1);
    assert_eq!(opened(machine.handle(phase(Phase::Running), clock.at(2))), 0);
    let moved = run(|status| {
        assigned(status, Phase::Running);
        status.assigned_pod = Some("p2".into());
        status.attempt = Some(2);
        status.assignment = Some(2);
    });
    assert_eq!(opened(machine.handle(moved, clock.at(3))), 1);
}

/// The older runtimed marks no end: a second of silence is one, and each line puts it off.
#[test]
fn silence_ends_a_log_without_a_mark() {
    let (mut machine, clock) = machine(Options::default());
    machine.handle(phase(Phase::Running), clock.at(0));
    machine.handle(phase(Phase::Succeeded), clock.at(100));
    machine.handle(output("late\n"), clock.at(900));
    assert_eq!(machine.deadline(), Some(clock.at(1900)));
    assert_eq!(outcome(&machine.handle(Event::Tick, clock.at(1899))), None);
    match outcome(&machine.handle(Event::Tick, clock.at(1900))) {
        Some(Outcome::Ended { cut_short: true, log_gone: false, .. }) => {}
        other => panic!("{other:?}"),
    }
}

/// Behind a lot of output of others the Run's own comes late; the log's own times tell that it may.
#[test]
fn a_log_that_has_not_come_to_the_end_is_not_silent() {
    let second = |n| Timestamp::from_second(n).unwrap();
    let (mut machine, clock) = machine(Options::default());
    let ended = run(|status| {
        assigned(status, Phase::Succeeded);
        status.completion_time = Some(MicroTime(second(100)));
    });
    machine.handle(ended, clock.at(0));
    machine.handle(Event::Log(vec![Entry::Reached(second(99))]), clock.at(800));
    assert_eq!(machine.deadline(), Some(clock.at(1800)));
    machine.handle(Event::Log(vec![Entry::Reached(second(101))]), clock.at(1000));
    assert_eq!(machine.deadline(), Some(clock.at(1800)), "what is written after the end puts nothing off");
    assert!(outcome(&machine.handle(Event::Tick, clock.at(1800))).is_some());
}

#[test]
fn holes_in_the_log_are_counted() {
    let (mut machine, clock) = machine(Options::default());
    machine.handle(phase(Phase::Running), clock.at(0));
    machine.handle(Event::Log(vec![Entry::Lost(7), Entry::Lost(3)]), clock.at(1));
    machine.handle(phase(Phase::Succeeded), clock.at(2));
    match outcome(&machine.handle(end(1), clock.at(3))) {
        Some(Outcome::Ended { lost: 10, cut_short: false, .. }) => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_run_that_never_started_has_no_log_to_wait_for() {
    let (mut machine, clock) = machine(Options::default());
    let actions = machine.handle(run(|status| status.phase = Some(Phase::Failed)), clock.at(1));
    match outcome(&actions) {
        Some(Outcome::Ended { cut_short: false, log_gone: false, .. }) => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_log_that_is_gone_is_told_apart_from_one_that_was_read() {
    let closed = || Event::LogClosed { pod: "p1".into(), why: "gone".into() };
    let (mut unread, clock) = machine(Options::default());
    unread.handle(phase(Phase::Failed), clock.at(0));
    match outcome(&unread.handle(closed(), clock.at(1))) {
        Some(Outcome::Ended { log_gone: true, cut_short: false, .. }) => {}
        other => panic!("{other:?}"),
    }
    let (mut read, clock) = machine(Options::default());
    read.handle(phase(Phase::Running), clock.at(0));
    read.handle(output("x\n"), clock.at(1));
    read.handle(phase(Phase::Failed), clock.at(2));
    match outcome(&read.handle(closed(), clock.at(3))) {
        Some(Outcome::Ended { log_gone: false, cut_short: true, .. }) => {}
        other => panic!("{other:?}"),
    }
}

/// Handed back and bound again under the same attempt number: the first bind's mark is not the second's.
#[test]
fn the_mark_of_a_former_bind_does_not_end_the_next() {
    let (mut machine, clock) = machine(Options::default());
    machine.handle(phase(Phase::Running), clock.at(0));
    machine.handle(end(1), clock.at(1));
    machine.handle(run(|status| status.phase = Some(Phase::Pending)), clock.at(2));
    let again = |phase| {
        run(move |status| {
            assigned(status, phase);
            status.assignment = Some(2);
        })
    };
    machine.handle(again(Phase::Running), clock.at(3));
    assert_eq!(outcome(&machine.handle(again(Phase::Succeeded), clock.at(4))), None);
    assert!(outcome(&machine.handle(end(1), clock.at(5))).is_some());
}

#[test]
fn the_first_interruption_cancels_and_the_second_leaves() {
    let (mut machine, clock) = machine(Options { cancels: true, ..Options::default() });
    machine.handle(phase(Phase::Running), clock.at(0));
    let actions = machine.handle(Event::Interrupt, clock.at(1));
    assert!(actions.contains(&Action::Cancel) && outcome(&actions).is_none());
    assert_eq!(outcome(&machine.handle(Event::Interrupt, clock.at(2))), Some(&Outcome::Left));
}

#[test]
fn an_interrupted_run_that_ends_says_so() {
    let (mut machine, clock) = machine(Options { cancels: true, ..Options::default() });
    machine.handle(phase(Phase::Running), clock.at(0));
    machine.handle(Event::Interrupt, clock.at(1));
    machine.handle(end(1), clock.at(2));
    match outcome(&machine.handle(phase(Phase::Cancelled), clock.at(3))) {
        Some(Outcome::Ended { interrupted: true, .. }) => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn who_only_looks_cancels_nothing() {
    let (mut machine, clock) = machine(Options::default());
    machine.handle(phase(Phase::Running), clock.at(0));
    let actions = machine.handle(Event::Interrupt, clock.at(1));
    assert!(!actions.contains(&Action::Cancel));
    assert_eq!(outcome(&actions), Some(&Outcome::Left));
}

#[test]
fn a_wait_is_explained_after_a_second_and_once_for_each_reason() {
    let (mut machine, clock) = machine(Options::default());
    let pending = |text: &str| {
        let text = text.to_owned();
        run(move |status| {
            status.phase = Some(Phase::Pending);
            status.reason = Some(Reason::Unschedulable);
            status.message = Some(text);
        })
    };
    let notes = |actions: &[Action]| -> Vec<String> {
        let note = |action: &Action| match action {
            Action::Note(text) => Some(text.clone()),
            _ => None,
        };
        actions.iter().filter_map(note).collect()
    };
    assert_eq!(machine.handle(pending("no Pod"), clock.at(10)), []);
    assert_eq!(machine.deadline(), Some(clock.at(1000)));
    let actions = machine.handle(Event::Tick, clock.at(1000));
    assert_eq!(notes(&actions), ["a is waiting: Unschedulable: no Pod"]);
    assert!(actions.contains(&Action::Waiting(Some("a is Pending".into()))));
    assert_eq!(machine.deadline(), None, "from here on only a change can matter");
    assert_eq!(notes(&machine.handle(pending("no Pod"), clock.at(1100))), Vec::<String>::new());
    assert_eq!(
        notes(&machine.handle(pending("no room"), clock.at(1200))),
        ["a is waiting: Unschedulable: no room"]
    );
    assert!(machine.handle(phase(Phase::Scheduled), clock.at(1300)).contains(&Action::Waiting(None)));
}

#[test]
fn silence_of_the_scheduler_is_not_held_against_it_at_once() {
    let (mut machine, clock) = machine(Options::default());
    let told = |actions: &[Action]| {
        actions.iter().any(|action| matches!(action, Action::Note(text) if text.contains("is one running?")))
    };
    assert!(!told(&machine.handle(phase(Phase::Pending), clock.at(10))));
    assert_eq!(machine.deadline(), Some(clock.at(5000)), "its own first word comes after a second");
    assert!(!told(&machine.handle(Event::Tick, clock.at(1500))));
    assert!(told(&machine.handle(Event::Tick, clock.at(5000))));
}

#[test]
fn a_retry_is_told() {
    let (mut machine, clock) = machine(Options::default());
    machine.handle(phase(Phase::Running), clock.at(2000));
    let actions = machine.handle(
        run(|status| {
            status.phase = Some(Phase::Pending);
            status.reason = Some(Reason::NonZeroExit);
            status.message = Some("exit code 3".into());
            status.attempt = Some(2);
            status.next_attempt_time = Some(MicroTime(Timestamp::UNIX_EPOCH));
        }),
        clock.at(2001),
    );
    let expected = "attempt 1 did not finish (NonZeroExit): exit code 3; the next follows at ";
    assert!(matches!(&actions[..], [Action::Note(text)] if text.starts_with(expected)), "{actions:?}");
}

#[test]
fn another_run_of_the_same_name_is_not_this_one() {
    let (mut machine, clock) = machine(Options::default());
    machine.handle(phase(Phase::Running), clock.at(0));
    let other =
        Run { metadata: ObjectMeta { uid: Some("u2".into()), ..ObjectMeta::default() }, ..Run::default() };
    assert_eq!(outcome(&machine.handle(Event::Run(Box::new(other)), clock.at(1))), Some(&Outcome::Deleted));
    let (mut machine, clock) = self::machine(Options::default());
    assert_eq!(outcome(&machine.handle(Event::Absent, clock.at(1))), Some(&Outcome::Deleted));
}

#[test]
fn only_wanted_lines_are_shown() {
    let filter = Filter { stream: Some(Stream::Out), attempt: Some(2) };
    let err = Line { stream: Stream::Err, ..line("x", 2) };
    let unknown = Line { attempt: None, ..line("x", 2) };
    assert!(filter.accepts(&line("x", 2)) && filter.accepts(&unknown));
    assert!(!filter.accepts(&line("x", 1)) && !filter.accepts(&err));
}

#[test]
fn troubles_are_told_once() {
    let (mut machine, clock) = machine(Options::default());
    let trouble = || Event::Trouble("no answer".into());
    assert_eq!(machine.handle(trouble(), clock.at(0)), [Action::Note("no answer".into())]);
    assert_eq!(machine.handle(trouble(), clock.at(1)), []);
}
