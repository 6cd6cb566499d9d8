use clap::Parser;

use super::*;
use crate::cli::{Cli, Command};

fn args(line: &[&str]) -> RunArgs {
    let line = ["krt", "run"].into_iter().chain(line.iter().copied());
    match Cli::try_parse_from(line).unwrap().command {
        Command::Run(args) => *args,
        other => panic!("{other:?}"),
    }
}

fn build_from(line: &[&str]) -> Result<Run, Error> {
    let environment = |name: &str| (name == "KNOWN").then(|| "from outside".to_owned());
    build(&args(line), &environment)
}

fn refusal(line: &[&str]) -> String {
    build_from(line).expect_err("a refusal").to_string()
}

#[test]
fn everything_lands_in_its_field() {
    let run = build_from(&[
        "-c",
        "echo hi",
        "-r",
        "gpu",
        "--name",
        "a",
        "-l",
        "team=ml",
        "--env",
        "A=1",
        "--env",
        "KNOWN",
        "--request",
        "cpu=2,nvidia.com/gpu=1",
        "--request",
        "memory=1Gi",
        "--limit",
        "pids=64",
        "--timeout",
        "90s",
        "--pending-timeout",
        "1h",
        "--retries",
        "2",
        "--retry-backoff",
        "3s",
        "--retry-on",
        "NonZeroExit,PodGone",
        "--ttl",
        "1500ms",
        "--priority",
        "-5",
        "--account",
        "x",
        "--queue",
        "y",
        "--submitter",
        "me",
        "--option",
        "partition=long",
    ])
    .unwrap();
    insta::assert_yaml_snapshot!(run);
}

#[test]
fn sources_of_every_kind() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("job.py");
    std::fs::write(&path, "print(1)").unwrap();
    let path = path.to_str().unwrap();
    let source = |line: &[&str]| build_from(line).unwrap().spec.source;
    assert_eq!(source(&[path]).unwrap().inline.as_deref(), Some("print(1)"));
    assert_eq!(source(&["-f", path]).unwrap().inline.as_deref(), Some("print(1)"));
    let function = build_from(&[path, "--handler", "job.main"]).unwrap().spec;
    assert_eq!(function.source.unwrap().inline_path.as_deref(), Some("job.py"));
    assert_eq!(function.mode.unwrap().function.unwrap().handler.as_deref(), Some("job.main"));
    let git = source(&["--git", "https://h/a.git@v1", "--entrypoint", "x.sh", "--", "a"]).unwrap();
    assert_eq!((git.repo_url.as_deref(), git.commit_sha.as_deref()), (Some("https://h/a.git"), Some("v1")));
    let older =
        source(&["--repo-url", "git@h:a.git", "--commit-sha", "abc", "--entrypoint", "x.sh"]).unwrap();
    assert_eq!((older.repo_url.as_deref(), older.commit_sha.as_deref()), (Some("git@h:a.git"), Some("abc")));
    let command = build_from(&["--", "echo", "hi"]).unwrap().spec;
    assert_eq!(
        (command.source, command.mode.unwrap().task.unwrap().args),
        (None, vec!["echo".into(), "hi".into()])
    );
}

#[test]
fn combinations_without_a_meaning_name_the_flag() {
    let long = "x".repeat(300 * 1024);
    let cases: &[(&[&str], &str)] = &[
        (&[], "FILE: nothing to run"),
        (&["-c", "x", "--", "a"], "-- ARGS: a script gets no arguments"),
        (&["-c", "x", "--entrypoint", "y"], "--entrypoint: cannot be used with a script"),
        (&["-c", ""], "--command: the script is empty"),
        (&["-c", &long], "--command: an inline script has at most 256 KiB"),
        (&["-c", "x", "--handler", "m.f"], "--handler: a script from -c"),
        (&["-c", "x", "--handler", "m.f", "--inline-path", "../m.py"], "--inline-path: must be relative"),
        (&["--handler", "m.f", "--", "a"], "--handler: takes no arguments"),
        (&["--git", "https://h/a"], "--git: say what to execute"),
        (
            &["--git", "https://h/a@v1", "--commit-sha", "v2", "--entrypoint", "x"],
            "--commit-sha: --git names",
        ),
        (&["--commit-sha", "v2", "--entrypoint", "x"], "--commit-sha: needs --git"),
        (&["--entrypoint", "/bin/sh"], "--entrypoint: must be a relative path"),
        (&["--entrypoint", "a/../b"], "--entrypoint: must be a relative path"),
        (&["-c", "x", "--env", "UNKNOWN"], "--env: UNKNOWN is not set"),
        (&["-c", "x", "--request", "cpu=1", "--request", "cpu=2"], "--request: cpu is given twice"),
        (
            &["-c", "x", "--request", "a=1,b=1,c=1,d=1,e=1,f=1,g=1,h=1"],
            "--request: at most 7 resources, not 8",
        ),
        (&["-c", "x", "--retry-backoff", "1s"], "--retry-backoff: means nothing without --retries"),
        (&["-c", "x", "--retries", "1", "--retry-on", "NonZeroExits"], "did you mean NonZeroExit?"),
        (&["-c", "x", "--account", ""], "--account: must have 1 to 253"),
        (&["-c", "x", "--ttl", "999999h"], "--ttl: is too long"),
    ];
    for (line, expected) in cases {
        let error = refusal(line);
        assert!(error.contains(expected), "{line:.60?}: {error}");
    }
}

#[test]
fn ten_thousand_variables_are_refused_before_any_request() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("env");
    let text: String = (0..10_000).map(|n| format!("V{n}=1\n")).collect();
    std::fs::write(&path, text).unwrap();
    let error = refusal(&["-c", "x", "--env-file", path.to_str().unwrap()]);
    assert_eq!(error, "--env-file: a Run has at most 256 variables, not 10000");
}

#[test]
fn the_last_value_of_a_variable_counts_and_flags_win_over_files() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("env");
    std::fs::write(&path, "A=file\nB=file\n").unwrap();
    let run = build_from(&[
        "-c",
        "x",
        "-e",
        "A=flag",
        "-e",
        "C=1",
        "-e",
        "C=2",
        "--env-file",
        path.to_str().unwrap(),
    ]);
    let env = run.unwrap().spec.env;
    let pairs: Vec<(&str, &str)> =
        env.iter().map(|v| (v.name.as_str(), v.value.as_deref().unwrap())).collect();
    assert_eq!(pairs, [("A", "flag"), ("B", "file"), ("C", "2")]);
}

#[test]
fn retries_count_attempts_after_the_first() {
    let attempts = |line: &[&str]| build_from(line).unwrap().spec.retry_policy.and_then(|p| p.max_attempts);
    assert_eq!(attempts(&["-c", "x"]), None);
    assert_eq!(attempts(&["-c", "x", "--retries", "2"]), Some(3));
    assert_eq!(attempts(&["-c", "x", "--retry-attempts", "2"]), Some(2));
    assert_eq!(attempts(&["-c", "x", "--retry-attempts", "0"]), None);
}

#[test]
fn waiting_is_the_default_and_can_be_said_in_the_older_words() {
    assert!(args(&["-c", "x"]).waits());
    assert!(args(&["-c", "x", "--wait"]).waits());
    assert!(!args(&["-c", "x", "--wait=false"]).waits());
    assert!(!args(&["-c", "x", "-d"]).waits());
}
