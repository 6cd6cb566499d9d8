//! Every refusal names its field; what is accepted means what it says.

use std::collections::HashMap;

use kruntimes_traces::Traces;

use super::*;
use crate::trace;
use v1::ExecuteRequest;

fn request() -> ExecuteRequest {
    ExecuteRequest { id: "a".into(), ..ExecuteRequest::default() }
}

fn check(wire: ExecuteRequest) -> Result<Request, Invalid> {
    Request::check(wire, &["known".to_owned()], Path::new("/workspace"), 1_000_000)
}

fn map(name: &str, value: &str) -> HashMap<String, String> {
    HashMap::from([(name.to_owned(), value.to_owned())])
}

#[test]
fn bad_input_is_refused_by_field() {
    let many = (0..=MAX_ENV).map(|n| (format!("N{n}"), String::new())).collect();
    let cases: Vec<(&str, ExecuteRequest)> = vec![
        ("id", ExecuteRequest { id: String::new(), ..request() }),
        ("id", ExecuteRequest { id: "x".repeat(129), ..request() }),
        ("id", ExecuteRequest { id: "a/b".into(), ..request() }),
        ("args[1]", ExecuteRequest { args: vec!["a".into(), "b\0".into()], ..request() }),
        ("env", ExecuteRequest { env: many, ..request() }),
        ("env[A=B]", ExecuteRequest { env: map("A=B", ""), ..request() }),
        ("env[]", ExecuteRequest { env: map("", ""), ..request() }),
        ("env[A]", ExecuteRequest { env: map("A", "\0"), ..request() }),
        ("working_dir", ExecuteRequest { working_dir: "here".into(), ..request() }),
        ("entrypoint", ExecuteRequest { entrypoint: "/bin/sh".into(), ..request() }),
        ("entrypoint", ExecuteRequest { entrypoint: "a/../../b".into(), ..request() }),
        ("timeout_seconds", ExecuteRequest { timeout_seconds: -1, ..request() }),
        ("deadline", ExecuteRequest { deadline: -1, ..request() }),
        ("grace_seconds", ExecuteRequest { grace_seconds: u32::MAX, ..request() }),
        ("warn_signal", ExecuteRequest { warn_signal: "SIGNOTHING".into(), ..request() }),
        ("options[unknown]", ExecuteRequest { options: map("unknown", ""), ..request() }),
    ];
    for (field, wire) in cases {
        let refused = check(wire).expect_err(field);
        assert_eq!(refused.field, field, "{refused}");
    }
    check(ExecuteRequest { options: map("known", "1"), ..request() }).expect("a known option");
}

#[test]
fn the_earlier_of_timeout_and_deadline_counts() {
    let end = |timeout_seconds, deadline| {
        let wire = ExecuteRequest { timeout_seconds, deadline, ..request() };
        check(wire).expect("accepted").limits.end_after
    };
    assert_eq!(end(0, 0), None);
    assert_eq!(end(5, 0), Some(Duration::from_secs(5)));
    assert_eq!(end(5, 3_000_000), Some(Duration::from_secs(2)));
    assert_eq!(end(1, 3_000_000), Some(Duration::from_secs(1)));
    assert_eq!(end(0, 1), Some(Duration::ZERO), "a deadline that has passed");
    let wire =
        ExecuteRequest { timeout_seconds: 9, warn_signal: "usr1".into(), warn_seconds: 4, ..request() };
    let warning = check(wire).expect("accepted").limits.warning;
    assert_eq!(warning, Some(Warning { signal: nix::libc::SIGUSR1, after: Duration::from_secs(5) }));
}

fn command(wire: ExecuteRequest, launch: &Launch) -> wire::Job {
    let server =
        [("PATH", "/server"), ("HOME", "/server"), ("SECRET", "x")].map(|(k, v)| (k.into(), v.into()));
    let passed = PassList::new(server.into_iter(), &[]);
    let fenced = ["HOME", "A", "TMPDIR"].map(|name| (name, b"/own".to_vec())).to_vec();
    check(wire).expect("accepted").command(launch, &passed, fenced, Vec::new()).expect("a command")
}

#[test]
fn the_environment_of_the_run_wins() {
    let wire = ExecuteRequest {
        env: HashMap::from(
            [("HOME", "/run"), ("A", "run"), ("KRUNTIME_OUTPUTS", "mine")].map(|(k, v)| (k.into(), v.into())),
        ),
        outputs_path: "/w/outputs".into(),
        ..request()
    };
    let launch = Launch::new("sh").env("A", "author").env("B", "author");
    let env = command(wire, &launch).env;
    let env: Vec<_> = env.iter().map(|entry| entry.to_str().expect("text")).collect();
    assert_eq!(
        env,
        ["A=run", "B=author", "HOME=/run", "KRUNTIME_OUTPUTS=/w/outputs", "PATH=/server", "TMPDIR=/own"]
    );
}

#[test]
fn programs_are_looked_up_in_the_runs_own_path() {
    let programs = |wire, program: &str| {
        let job = command(wire, &Launch::new(program).arg("x"));
        assert_eq!(job.args.len(), 2);
        job.programs.iter().map(|path| path.to_str().expect("text").to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(programs(request(), "sh"), ["/server/sh"]);
    let own = ExecuteRequest { env: map("PATH", "/a::/b"), ..request() };
    assert_eq!(programs(own.clone(), "sh"), ["/a/sh", "./sh", "/b/sh"]);
    assert_eq!(programs(own, "./sh"), ["./sh"]);
}

#[test]
fn a_process_is_told_of_its_own_span_or_of_its_callers() {
    const CALLER: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let given =
        |text: &str| check(ExecuteRequest { traceparent: text.into(), ..request() }).expect("accepted");
    let (on, _recorded) = Traces::recorded();
    let own = trace::traceparent(&given(CALLER), &on).expect("one");
    assert!(own != CALLER && own[..36] == CALLER[..36], "a span of the same trace: {own}");
    assert_eq!(trace::traceparent(&given(CALLER), &Traces::default()).as_deref(), Some(CALLER));
    for text in ["", "nonsense"] {
        assert_eq!(trace::traceparent(&given(text), &on), None, "{text}");
    }
}
