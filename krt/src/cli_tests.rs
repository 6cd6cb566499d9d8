use clap::Parser;
use clap::error::ErrorKind;

use super::*;

#[test]
fn the_definition_is_sound() {
    command().debug_assert();
}

/// The help of every command, as a person reads it.
#[test]
fn help_of_every_command() {
    let mut root = command().term_width(100);
    root.build();
    let mut texts = Vec::new();
    collect(&root, &mut texts);
    for (path, text) in texts {
        insta::with_settings!({snapshot_suffix => path.join("-"), omit_expression => true}, {
            insta::assert_snapshot!("help", text);
        });
    }
}

fn collect(command: &clap::Command, into: &mut Vec<(Vec<String>, String)>) {
    fn walk(command: &clap::Command, path: &[String], into: &mut Vec<(Vec<String>, String)>) {
        let mut path = path.to_vec();
        path.push(command.get_name().to_owned());
        let connection = |arg: &&clap::Arg| arg.get_help_heading() == Some("Connection") && path.len() > 1;
        // The shared flags are in the help of the program; once is enough for a snapshot.
        let shared: Vec<String> =
            command.get_arguments().filter(connection).map(|arg| arg.get_id().to_string()).collect();
        let mut shown = command.clone();
        for id in shared {
            shown = shown.mut_arg(id, |arg| arg.hide(true));
        }
        let text = shown.render_long_help().to_string();
        let tidy: Vec<&str> = text.lines().map(str::trim_end).collect();
        into.push((path.clone(), tidy.join("\n")));
        for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
            walk(sub, &path, into);
        }
    }
    walk(command, &[], into);
}

fn refused(line: &[&str]) -> clap::Error {
    Cli::try_parse_from(["krt"].into_iter().chain(line.iter().copied())).expect_err("a refusal")
}

#[test]
fn bad_values_name_their_flag_before_any_request() {
    for (line, flag, why) in [
        (&["run", "-c", "x", "--timeout", "abc"][..], "--timeout", "not a duration"),
        (&["run", "-c", "x", "--timeout", "0s"], "--timeout", "more than 0s"),
        (&["run", "-c", "x", "--retries", "-1"], "--retries", "-1"),
        (&["run", "-c", "x", "--retries", "100"], "--retries", "99"),
        (&["run", "-c", "x", "--request", "cpu=-1"], "--request", "negative"),
        (&["run", "-c", "x", "--request", "nvidia.com/gpu=0.5"], "--request", "whole"),
        (&["run", "-c", "x", "--limit", "gpu=1"], "--limit", "cannot be limited"),
        (&["run", "-c", "x", "--env", "=1"], "--env", "no name"),
        (&["run", "-c", "x", "--label", "a"], "--label", "KEY=VALUE"),
        (&["run", "-c", "x", "--name", "UPPER"], "--name", "lower-case"),
        (&["run", "-c", "x", "-r", "a b"], "--runtime", "letters"),
        (&["run", "--git", "file:///etc", "--entrypoint", "x"], "--git", "https://"),
        (&["list", "--phase", "done"], "--phase", "Succeeded"),
        (&["logs", "Upper"], "<RUN>", "lower-case"),
        (&["get", "x", "--request-timeout", "soon"], "--request-timeout", "not a duration"),
        (&["get", "x", "-n", "No"], "--namespace", "lower-case"),
    ] {
        let error = refused(line).to_string();
        assert!(error.contains(flag) && error.contains(why), "{line:?}: {error}");
    }
}

#[test]
fn one_source_and_one_way_to_wait() {
    for line in [
        &["run", "-c", "x", "file.sh"][..],
        &["run", "-c", "x", "-f", "file.sh"],
        &["run", "-f", "x", "--git", "https://h/a"],
        &["run", "--git", "https://h/a", "--repo-url", "https://h/a"],
        &["run", "-c", "x", "--handler", "m.f", "--entrypoint", "e"],
        &["run", "-c", "x", "--detach", "--wait"],
        &["run", "-c", "x", "--retries", "1", "--retry-attempts", "1"],
        &["cancel", "x", "-l", "a=b"],
    ] {
        assert_eq!(refused(line).kind(), ErrorKind::ArgumentConflict, "{line:?}");
    }
    assert_eq!(refused(&["cancel"]).kind(), ErrorKind::MissingRequiredArgument);
}

/// The command lines of the baseline's documentation.
#[test]
fn lines_written_for_the_older_krt_are_understood() {
    for line in [
        &["run", "--runtime", "bash", "--wait", "--", "echo", "hello"][..],
        &["run", "-r", "bash", "--timeout", "60s", "-f", "-", "--wait"],
        &[
            "run",
            "--runtime=python",
            "--handler=main.handle",
            "--repo-url=https://h/a.git",
            "--commit-sha=abc",
            "--env=A=1",
            "--env=B=2",
        ],
        &[
            "run",
            "--retry-attempts",
            "3",
            "--retry-backoff",
            "2s",
            "--entrypoint",
            "a.sh",
            "--repo-url",
            "git@h:a.git",
        ],
        &["get", "run-abc", "-o", "json"],
        &["list", "-A", "--runtime", "bash", "--phase", "Running", "-o", "yaml"],
        &["logs", "run-abc", "-f", "--tail", "0", "--status-port", "19093"],
        &["cancel", "run-abc"],
        &["runtime", "list", "-A"],
        &["runtime", "get", "bash", "-o", "table"],
        &["version"],
        &["completion", "zsh"],
        &[
            "--kubeconfig",
            "k",
            "--context",
            "c",
            "--cluster",
            "d",
            "--user",
            "u",
            "-n",
            "ns",
            "-s",
            "https://h",
            "--token",
            "t",
            "--as",
            "a",
            "--as-group",
            "g",
            "--as-uid",
            "i",
            "--request-timeout",
            "0",
            "list",
        ],
        &[
            "list",
            "--insecure-skip-tls-verify",
            "--tls-server-name",
            "x",
            "--certificate-authority",
            "f",
            "--client-certificate",
            "f",
            "--client-key",
            "f",
            "--cache-dir",
            "d",
            "--disable-compression",
        ],
    ] {
        if let Err(error) = Cli::try_parse_from(["krt"].into_iter().chain(line.iter().copied())) {
            panic!("{line:?}: {error}");
        }
    }
}
