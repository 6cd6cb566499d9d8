//! Chosen sequences; the random ones are in `world_tests`.

use super::*;
use crate::server::{End, ExecutionState};
use kruntimes_api::run::Figure;
use kruntimes_core::ids::PodUid;
use kruntimes_core::run::{Finish, transition};
use serde_json::json;
use std::collections::HashMap;

struct Bench {
    engine: Engine,
    start: Instant,
    wall: Timestamp,
    after: Duration,
}

fn pod() -> PodRef {
    PodRef { name: "pod".into(), uid: PodUid::from("pod-uid") }
}

fn settings() -> Settings {
    Settings {
        pod: pod(),
        defaults: None,
        window: Duration::from_millis(25),
        grace: Duration::from_secs(10),
        patience: Duration::from_secs(10),
    }
}

fn instance() -> Instance {
    Instance::Native("i-1".into())
}

/// A Run with uid `u` bound to this Pod for the `assignment`th time.
fn bound(spec: serde_json::Value, assignment: i64) -> Arc<Run> {
    let mut run: Run = serde_json::from_value(json!({
        "apiVersion": "kruntimes.io/v1alpha1", "kind": "Run", "spec": spec,
        "metadata": {"name": "r", "namespace": "n", "uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z"},
    }))
    .unwrap();
    let now = Timestamp::now();
    run.status = Some(transition(&run, &RunEvent::Bind { pod: pod(), queued_at: now }, now).unwrap());
    run.status.as_mut().unwrap().assignment = Some(assignment);
    Arc::new(run)
}

fn with(run: &Run, change: impl FnOnce(&mut Run)) -> Arc<Run> {
    let mut run = run.clone();
    change(&mut run);
    Arc::new(run)
}

fn fence(assignment: i64) -> Fence {
    Fence { run: RunUid::from("u"), attempt: 1, assignment }
}

fn execution(assignment: i64, state: ExecutionState, at: Timestamp) -> Execution {
    Execution {
        id: RunUid::from("u"),
        of: Some((1, assignment)),
        state,
        started_at: Some(at),
        usage: None,
        devices: Vec::new(),
        isolation: Vec::new(),
        backend: None,
    }
}

fn end(succeeded: bool, cause: StopCause) -> ExecutionState {
    ExecutionState::Ended(Box::new(End {
        succeeded,
        exit_code: if succeeded { 0 } else { 3 },
        signal: 0,
        cause,
        message: String::new(),
        finished_at: None,
        stdout_tail: String::new(),
        stderr_tail: String::new(),
    }))
}

impl Bench {
    fn new(journal: HashMap<RunUid, Record>) -> Self {
        Self {
            engine: Engine::new(settings(), journal),
            start: Instant::now(),
            wall: "2026-01-01T00:00:01Z".parse().unwrap(),
            after: Duration::ZERO,
        }
    }

    fn now(&self) -> Now {
        Now { wall: self.wall + self.after, mono: self.start + self.after }
    }

    fn send(&mut self, event: Event) -> Vec<Action> {
        self.engine.handle(event, self.now())
    }

    fn pass(&mut self, time: Duration) -> Vec<Action> {
        self.after += time;
        self.send(Event::Tick)
    }

    /// Connected, with an empty list and an empty server.
    fn ready() -> Self {
        let mut bench = Self::new(HashMap::new());
        assert!(bench.send(Event::Listed(Vec::new())).is_empty());
        assert!(bench.send(Event::ServerUp { instance: instance(), executions: Vec::new() }).is_empty());
        bench
    }

    /// Ready, and `run` is executing.
    fn executing(run: &Arc<Run>) -> Self {
        let mut bench = Self::ready();
        assert!(matches!(bench.send(Event::Seen(Arc::clone(run)))[..], [Action::Prepare { .. }]));
        let prepared = Event::Prepared { fence: fence(1), result: Ok(Prepared::default()) };
        assert!(matches!(bench.send(prepared)[..], [Action::Execute { .. }]));
        bench
    }

    fn running(run: &Arc<Run>) -> Self {
        let mut bench = Self::executing(run);
        let executed = bench.send(Event::Executed { fence: fence(1), result: Ok(()) });
        assert!(matches!(executed[..], [Action::Follow { .. }]));
        let started = execution(1, ExecutionState::Running, bench.now().wall);
        assert!(bench.send(Event::Execution(Box::new(started))).is_empty());
        bench
    }

    /// Lets the execution end and gives the last write.
    fn finish(&mut self, state: ExecutionState) -> RunEvent {
        let ended = execution(1, state, self.wall);
        let actions = self.send(Event::Execution(Box::new(ended)));
        assert!(matches!(actions[..], [Action::Collect { .. }]), "{actions:?}");
        let collected = Collected { outputs: Ok(BTreeMap::new()), log_tail: None };
        written(self.send(Event::Collected { fence: fence(1), collected }))
    }
}

/// The event of the only write among `actions`.
fn written(actions: Vec<Action>) -> RunEvent {
    let mut writes = actions.into_iter().filter_map(|action| match action {
        Action::Write { event, .. } => Some(*event),
        _ => None,
    });
    let event = writes.next().expect("a write");
    assert!(writes.next().is_none(), "one write");
    event
}

fn finish_of(event: RunEvent) -> Finish {
    match event {
        RunEvent::Finished { finish, .. } => *finish,
        other => panic!("not a finish: {other:?}"),
    }
}

fn bash() -> serde_json::Value {
    json!({"runtime": "bash"})
}

#[test]
fn work_that_ends_within_the_window_is_written_once_with_its_true_start() {
    let run = bound(bash(), 1);
    let mut bench = Bench::running(&run);
    let started = bench.now().wall;
    assert!(bench.pass(Duration::from_millis(20)).is_empty());
    let finish = finish_of(bench.finish(end(true, StopCause::Exited)));
    assert_eq!((finish.reason, finish.started_at), (Reason::Completed, Some(started)));
}

#[test]
fn longer_work_is_announced_after_the_window() {
    let run = bound(bash(), 1);
    let mut bench = Bench::running(&run);
    assert_eq!(bench.engine.due(), Some(bench.now().mono + Duration::from_millis(25)));
    let event = written(bench.pass(Duration::from_millis(25)));
    assert_eq!(event, RunEvent::Started { fence: fence(1), at: bench.wall, devices: Vec::new() });
    // The end waits for that write, which is hurried if it has to wait itself.
    let ended = execution(1, end(true, StopCause::Exited), bench.wall);
    bench.send(Event::Execution(Box::new(ended)));
    let collected = Collected { outputs: Ok(BTreeMap::new()), log_tail: None };
    let actions = bench.send(Event::Collected { fence: fence(1), collected });
    assert!(matches!(actions[..], [Action::HurryWrite { .. }]), "{actions:?}");
    let last = written(bench.send(Event::Written { fence: fence(1), outcome: Written::Abandoned }));
    assert_eq!(finish_of(last).reason, Reason::Completed);
    let actions = bench.send(Event::Written { fence: fence(1), outcome: Written::Applied(run) });
    assert!(matches!(actions[..], [Action::Release { executed: true, cancel: false, .. }]), "{actions:?}");
    bench.send(Event::Released { fence: fence(1) });
    assert!(bench.engine.is_idle());
}

#[test]
fn nothing_happens_before_the_server_has_spoken_and_only_for_our_pod() {
    let mut bench = Bench::new(HashMap::new());
    let other =
        with(&bound(bash(), 1), |run| run.status.as_mut().unwrap().assigned_pod_uid = Some("old".into()));
    assert!(bench.send(Event::Listed(vec![bound(bash(), 1)])).is_empty());
    let actions = bench.send(Event::ServerUp { instance: instance(), executions: Vec::new() });
    assert!(matches!(actions[..], [Action::Prepare { .. }]));
    let mut bench = Bench::ready();
    assert!(bench.send(Event::Seen(other)).is_empty());
    assert!(bench.engine.is_idle());
}

#[test]
fn the_timeout_counts_from_the_start_and_no_clock_jump_moves_it() {
    let run = bound(json!({"runtime": "bash", "timeout": "2s"}), 1);
    let mut bench = Bench::running(&run);
    written(bench.pass(Duration::from_millis(30)));
    bench.send(Event::Written { fence: fence(1), outcome: Written::Applied(Arc::clone(&run)) });
    bench.wall = "2030-01-01T00:00:00Z".parse().unwrap();
    assert!(bench.pass(Duration::from_millis(1900)).is_empty());
    let actions = bench.pass(Duration::from_millis(100));
    assert!(matches!(actions[..], [Action::Cancel { cause: StopCause::Timeout, .. }]), "{actions:?}");
    assert!(bench.pass(Duration::from_secs(60)).is_empty(), "asked once");
    let finish = finish_of(bench.finish(end(false, StopCause::Timeout)));
    assert_eq!((finish.reason, &*finish.message), (Reason::Timeout, "timeout after 2s"));
}

#[test]
fn cancel_is_answered_in_every_stage() {
    let run = bound(bash(), 1);
    let cancelled = with(&run, |run| run.spec.cancel_requested = Some(true));
    let check = |event| {
        let finish = finish_of(event);
        assert_eq!((finish.reason, &*finish.message), (Reason::Cancelled, "cancelled by user"));
    };
    // No server yet.
    let mut bench = Bench::new(HashMap::new());
    bench.send(Event::Listed(vec![Arc::clone(&run)]));
    check(written(bench.send(Event::Seen(Arc::clone(&cancelled)))));
    // While the source is fetched.
    let mut bench = Bench::ready();
    bench.send(Event::Seen(Arc::clone(&run)));
    let actions = bench.send(Event::Seen(Arc::clone(&cancelled)));
    assert!(matches!(actions[..], [Action::Abort { .. }, Action::Write { .. }]), "{actions:?}");
    check(written(actions));
    // While Execute is under way: the server is told after it.
    let mut bench = Bench::executing(&run);
    let actions = bench.send(Event::Seen(Arc::clone(&cancelled)));
    assert!(matches!(actions[..], [Action::Cancel { cause: StopCause::Cancelled, .. }]), "{actions:?}");
    let refused = Event::Executed { fence: fence(1), result: Err(ExecuteFailure::NoRoom("full".into())) };
    check(written(bench.send(refused)));
    // While it runs.
    let mut bench = Bench::running(&run);
    let actions = bench.send(Event::Seen(Arc::clone(&cancelled)));
    assert!(matches!(actions[..], [Action::Cancel { .. }]), "{actions:?}");
    check(bench.finish(end(false, StopCause::Cancelled)));
    // After it ended by itself: that is what counts.
    let mut bench = Bench::running(&run);
    bench.send(Event::Seen(cancelled));
    assert_eq!(finish_of(bench.finish(end(true, StopCause::Exited))).reason, Reason::Completed);
}

#[test]
fn a_source_that_hangs_has_the_time_of_the_run_and_no_more() {
    let spec = json!({"runtime": "bash", "mode": {"task": {}}, "timeout": "3s",
                      "source": {"repository": {"url": "https://example.com/r.git", "commitSHA": "main"}}});
    let run = bound(spec, 1);
    let mut bench = Bench::ready();
    bench.send(Event::Seen(Arc::clone(&run)));
    assert!(bench.pass(Duration::from_secs(2)).is_empty());
    let actions = bench.pass(Duration::from_secs(1));
    assert!(matches!(actions[0], Action::Abort { .. }), "{actions:?}");
    let finish = finish_of(written(actions));
    assert_eq!(finish.reason, Reason::Timeout);
    assert_eq!(finish.message, "timeout after 3s, before it was started");
    assert!(finish.usage.is_none(), "nothing was executed");
}

#[test]
fn a_lost_execution_leaves_a_hole_in_the_bill() {
    let mut bench = Bench::running(&bound(bash(), 1));
    bench.send(Event::ServerDown);
    let another = Event::ServerUp { instance: Instance::Native("i-2".into()), executions: Vec::new() };
    let finish = finish_of(written(bench.send(another)));
    assert_eq!(finish.reason, Reason::ServerLost);
    assert!(finish.usage.unwrap().incomplete);
}

#[test]
fn suspend_gives_the_run_back_uncounted() {
    let run = bound(bash(), 1);
    let mut bench = Bench::running(&run);
    bench.send(Event::Seen(with(&run, |run| run.spec.suspend = Some(true))));
    let event = bench.finish(end(false, StopCause::Suspended));
    assert!(matches!(event, RunEvent::Suspended { .. }), "{event:?}");
    // Its server is lost before it said what was used.
    let mut bench = Bench::running(&run);
    bench.send(Event::Seen(with(&run, |run| run.spec.suspend = Some(true))));
    let another = Event::ServerUp { instance: Instance::Native("i-2".into()), executions: Vec::new() };
    let RunEvent::Suspended { usage, .. } = written(bench.send(another)) else { panic!("not suspended") };
    assert!(usage.unwrap().incomplete);
}

#[test]
fn answers_to_execute_become_what_they_mean() {
    let run = bound(bash(), 1);
    let answer = |failure| {
        let mut bench = Bench::executing(&run);
        written(bench.send(Event::Executed { fence: fence(1), result: Err(failure) }))
    };
    let full = answer(ExecuteFailure::NoRoom("no room".into()));
    assert!(matches!(full, RunEvent::HandBack { delay, .. } if delay == Duration::from_secs(1)), "{full:?}");
    let invalid = finish_of(answer(ExecuteFailure::Invalid("options[x]: unknown option".into())));
    assert_eq!((invalid.reason, &*invalid.message), (Reason::InvalidRun, "options[x]: unknown option"));
    assert_eq!(finish_of(answer(ExecuteFailure::Rejected("no".into()))).reason, Reason::ServerRejected);
}

#[test]
fn an_unavailable_server_is_asked_again_for_a_while() {
    let mut bench = Bench::executing(&bound(bash(), 1));
    let unavailable =
        || Event::Executed { fence: fence(1), result: Err(ExecuteFailure::Unavailable("later".into())) };
    let mut asked = 1;
    loop {
        let actions = bench.send(unavailable());
        if !actions.is_empty() {
            assert!(matches!(written(actions), RunEvent::HandBack { .. }));
            break;
        }
        let again = bench.pass(Duration::from_millis(250));
        assert!(matches!(again[..], [Action::Execute { .. }]), "{again:?}");
        asked += 1;
    }
    assert!(asked > 10 && bench.after >= Duration::from_secs(10), "{asked} {:?}", bench.after);
}

#[test]
fn outputs_decide_about_success() {
    let mut bench = Bench::running(&bound(bash(), 1));
    let ended = execution(1, end(true, StopCause::Exited), bench.wall);
    bench.send(Event::Execution(Box::new(ended)));
    let outputs = Err(OutputsError::Malformed { line: 2, why: "it is not UTF-8" });
    let collected = Collected { outputs, log_tail: Some("tail".into()) };
    let finish = finish_of(written(bench.send(Event::Collected { fence: fence(1), collected })));
    assert_eq!(
        (finish.reason, &*finish.message),
        (Reason::OutputsInvalid, "outputs line 2: it is not UTF-8")
    );
}

/// After our own restart, or the server's: everything that can be known of one Run.
#[test]
fn recovery_follows_what_is_known() {
    let scheduled = bound(bash(), 2);
    let running = with(&scheduled, |run| {
        let status = run.status.as_mut().unwrap();
        status.phase = Some(kruntimes_api::Phase::Running);
        status.start_time = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime(Timestamp::now()));
    });
    let recover = |run: &Arc<Run>, record: Option<Record>, known: Option<Execution>| {
        let journal = record.into_iter().map(|record| (RunUid::from("u"), record)).collect();
        let mut bench = Bench::new(journal);
        bench.send(Event::Listed(vec![Arc::clone(run)]));
        bench.send(Event::ServerUp { instance: instance(), executions: known.into_iter().collect() })
    };
    let record =
        |sent_to: Option<Instance>, assignment| Record { sent_to, ..Record::new(&fence(assignment)) };
    let lost = |actions| assert_eq!(finish_of(written(actions)).reason, Reason::ServerLost);
    let now = Timestamp::now();

    let fresh = recover(&scheduled, None, None);
    assert!(matches!(fresh[..], [Action::Prepare { .. }]), "{fresh:?}");
    let prepared = recover(&scheduled, Some(record(None, 2)), None);
    assert!(matches!(prepared[..], [Action::Prepare { .. }]), "{prepared:?}");
    let sent = recover(&scheduled, Some(record(Some(instance()), 2)), None);
    assert!(matches!(sent[..], [Action::Execute { .. }]), "{sent:?}");
    lost(recover(&scheduled, Some(record(Some(Instance::Native("i-0".into())), 2)), None));
    let asked = recover(&running, Some(record(Some(instance()), 2)), None);
    assert!(matches!(asked[..], [Action::Ask { .. }]), "{asked:?}");
    lost(recover(&running, None, None));
    let adopted = recover(&running, None, Some(execution(2, ExecutionState::Running, now)));
    assert!(matches!(adopted[..], [Action::Follow { .. }]), "{adopted:?}");
    let ended = recover(&scheduled, None, Some(execution(2, end(true, StopCause::Exited), now)));
    assert!(matches!(ended[..], [Action::Follow { .. }, Action::Collect { .. }]), "{ended:?}");
    let older = recover(&scheduled, None, Some(execution(1, ExecutionState::Running, now)));
    assert!(
        matches!(&older[..], [Action::Release { fence, cancel: true, .. }] if fence.assignment == 1),
        "{older:?}"
    );
}

#[test]
fn a_snapshot_may_be_older_than_an_execution() {
    let again =
        |bench: &mut Bench, executions| bench.send(Event::ServerUp { instance: instance(), executions });
    let mut bench = Bench::running(&bound(bash(), 1));
    let actions = again(&mut bench, Vec::new());
    assert!(matches!(actions[..], [Action::Ask { .. }]), "{actions:?}");
    let running = execution(1, ExecutionState::Running, bench.wall);
    let actions = bench.send(Event::Execution(Box::new(running)));
    assert!(matches!(actions[..], [Action::Follow { .. }]), "{actions:?}");
    again(&mut bench, Vec::new());
    let finish = finish_of(written(bench.send(Event::Missing(RunUid::from("u")))));
    assert_eq!(finish.reason, Reason::ServerLost);
}

#[test]
fn what_no_run_owns_is_removed() {
    let journal = HashMap::from([(RunUid::from("gone"), Record::new(&fence(1)))]);
    let mut bench = Bench::new(journal);
    let executions = vec![execution(1, ExecutionState::Running, Timestamp::now())];
    assert!(
        bench.send(Event::ServerUp { instance: instance(), executions }).is_empty(),
        "the list is not there yet"
    );
    let actions = bench.send(Event::Listed(Vec::new()));
    let released: Vec<&str> = actions
        .iter()
        .map(|action| match action {
            Action::Release { fence, cancel: true, executed: true, run: None, usage: None } => {
                fence.run.as_str()
            }
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(released, ["gone", "u"]);
}

#[test]
fn a_run_that_is_taken_from_us_is_ended_without_a_word() {
    let run = bound(bash(), 1);
    let mut bench = Bench::running(&run);
    let actions = bench.send(Event::Gone(RunUid::from("u")));
    assert!(matches!(actions[..], [Action::Release { cancel: true, .. }]), "{actions:?}");
    // Bound to us anew meanwhile: that begins when the old one is gone.
    assert!(bench.send(Event::Seen(bound(bash(), 2))).is_empty());
    let actions = bench.send(Event::Released { fence: fence(1) });
    assert!(matches!(&actions[..], [Action::Prepare { fence, .. }] if fence.assignment == 2), "{actions:?}");
}

/// What the end mark in the log is to say that the attempt used.
fn marked(actions: &[Action]) -> Option<AttemptUsage> {
    match actions {
        [Action::Release { run: Some(_), usage, .. }] => usage.clone(),
        other => panic!("not a release: {other:?}"),
    }
}

#[test]
fn the_end_mark_of_an_attempt_has_its_record() {
    let run = bound(bash(), 1);
    let used = |value, incomplete| {
        let wall = Figure { name: "wall_seconds".into(), value, ..Figure::default() };
        AttemptUsage { figures: vec![wall], incomplete }
    };
    let snapshot = |bench: &mut Bench| {
        let mut seen = execution(1, ExecutionState::Running, bench.wall);
        seen.usage = Some(used(1.0, false));
        bench.send(Event::Execution(Box::new(seen)));
    };
    let write = Event::Written { fence: fence(1), outcome: Written::Applied(Arc::clone(&run)) };

    let mut bench = Bench::running(&run);
    snapshot(&mut bench);
    let mut ended = execution(1, end(false, StopCause::Exited), bench.wall);
    ended.usage = Some(used(2.0, false));
    bench.send(Event::Execution(Box::new(ended)));
    let collected = Collected { outputs: Ok(BTreeMap::new()), log_tail: None };
    bench.send(Event::Collected { fence: fence(1), collected });
    assert_eq!(marked(&bench.send(write.clone())), Some(used(2.0, false)), "of its end");

    let mut bench = Bench::running(&run);
    snapshot(&mut bench);
    let other = Event::ServerUp { instance: Instance::Native("i-2".into()), executions: Vec::new() };
    assert_eq!(finish_of(written(bench.send(other))).reason, Reason::ServerLost);
    assert_eq!(marked(&bench.send(write.clone())), Some(used(1.0, true)), "lost: as it was last seen");

    let mut bench = Bench::running(&run);
    snapshot(&mut bench);
    assert_eq!(marked(&bench.send(Event::Gone(RunUid::from("u")))), Some(used(1.0, true)), "taken from us");

    let mut bench = Bench::executing(&run);
    let busy = Err(ExecuteFailure::NoRoom("full".into()));
    let handed_back = written(bench.send(Event::Executed { fence: fence(1), result: busy }));
    assert!(matches!(handed_back, RunEvent::HandBack { .. }), "{handed_back:?}");
    assert_eq!(marked(&bench.send(write)), None, "nothing was executed");
}

#[test]
fn what_the_watch_says_late_of_an_ended_attempt_begins_nothing() {
    let run = bound(bash(), 1);
    let mut bench = Bench::running(&run);
    bench.finish(end(true, StopCause::Exited));
    bench.send(Event::Written { fence: fence(1), outcome: Written::Applied(Arc::clone(&run)) });
    bench.send(Event::Released { fence: fence(1) });
    assert!(matches!(bench.send(Event::Seen(Arc::clone(&run)))[..], [Action::CountStale]));
    assert!(matches!(bench.send(Event::Listed(vec![Arc::clone(&run)]))[..], [Action::CountStale]));
    // A newer assignment does, and what was remembered goes with the Run.
    let actions = bench.send(Event::Seen(bound(bash(), 2)));
    assert!(matches!(&actions[..], [Action::Prepare { fence, .. }] if fence.assignment == 2), "{actions:?}");
}

#[test]
fn a_draining_pod_hands_back_what_was_not_sent_and_ends_the_rest_in_time() {
    let run = bound(bash(), 1);
    let mut bench = Bench::ready();
    bench.send(Event::Seen(Arc::clone(&run)));
    let until = bench.now().mono + Duration::from_secs(20);
    let actions = bench.send(Event::Drain { until, end_started: true });
    assert!(matches!(written(actions), RunEvent::HandBack { .. }));

    let mut bench = Bench::running(&run);
    assert!(bench.send(Event::Drain { until, end_started: true }).is_empty());
    written(bench.pass(Duration::from_secs(1)));
    bench.send(Event::Written { fence: fence(1), outcome: Written::Applied(Arc::clone(&run)) });
    let actions = bench.pass(Duration::from_secs(20));
    assert!(matches!(actions[..], [Action::Cancel { cause: StopCause::Evicted, .. }]), "{actions:?}");
    assert_eq!(finish_of(bench.finish(end(false, StopCause::Evicted))).reason, Reason::PodTerminating);

    // A server that dies at once takes its Runs with it.
    let mut bench = Bench::running(&run);
    bench.send(Event::Drain { until, end_started: true });
    assert_eq!(finish_of(written(bench.send(Event::ServerDown))).reason, Reason::PodTerminating);

    // When only our container is restarted, they are left to our successor.
    let mut bench = Bench::running(&run);
    bench.send(Event::Drain { until, end_started: false });
    assert!(bench.send(Event::ServerDown).is_empty());
    assert!(bench.pass(Duration::from_secs(60)).is_empty());
}

#[test]
fn remote_queueing_counts_for_the_pending_timeout() {
    let run = bound(json!({"runtime": "ray", "pendingTimeout": "10s"}), 1);
    let mut bench = Bench::executing(&run);
    bench.send(Event::Executed { fence: fence(1), result: Ok(()) });
    let queued = execution(1, ExecutionState::Pending, bench.wall);
    assert!(bench.send(Event::Execution(Box::new(queued))).is_empty());
    // The Run was created a second before our clock began.
    assert_eq!(bench.engine.due(), Some(bench.start + Duration::from_secs(9)));
    let actions = bench.pass(Duration::from_secs(9));
    assert!(matches!(actions[..], [Action::Cancel { .. }]), "{actions:?}");
    assert_eq!(finish_of(bench.finish(end(false, StopCause::Timeout))).reason, Reason::PendingTimeout);
}

#[test]
fn every_cause_has_a_reason_and_codes_follow_the_shells() {
    use StopCause as C;
    for (cause, reason) in [
        (C::Unspecified, Reason::NonZeroExit),
        (C::Exited, Reason::NonZeroExit),
        (C::Signalled, Reason::NonZeroExit),
        (C::Timeout, Reason::Timeout),
        (C::Cancelled, Reason::Cancelled),
        (C::OutOfMemory, Reason::OutOfMemory),
        (C::GpuMemoryExceeded, Reason::GpuMemoryExceeded),
        (C::PidsExceeded, Reason::PidsExceeded),
        (C::StorageExceeded, Reason::StorageExceeded),
        (C::StartFailed, Reason::StartFailed),
        (C::ServerLost, Reason::ServerLost),
        (C::DeviceLost, Reason::DeviceLost),
        (C::GpuFault, Reason::GpuFault),
        (C::BackendFailed, Reason::BackendFailed),
        (C::BackendLost, Reason::BackendLost),
        (C::Evicted, Reason::Evicted),
        (C::InvalidRun, Reason::InvalidRun),
    ] {
        let mut bench = Bench::running(&bound(bash(), 1));
        let finish = finish_of(bench.finish(end(false, cause)));
        assert_eq!(finish.reason, reason, "{cause:?}");
        assert!(!finish.message.is_empty());
    }
    let mut bench = Bench::running(&bound(bash(), 1));
    let ExecutionState::Ended(mut killed) = end(false, C::Signalled) else { panic!() };
    (killed.exit_code, killed.signal) = (0, 9);
    let finish = finish_of(bench.finish(ExecutionState::Ended(killed)));
    assert_eq!((finish.exit_code, &*finish.message), (Some(137), "ended by signal 9 (SIGKILL)"));
}
