//! The suite in the virtual machine: each test program of the server kit in a machine of its own.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};
use serde::Deserialize;

use super::report::Report;
use super::{SHOWN, read};
use crate::command;

/// The package whose tests run in there.
const PACKAGE: &str = "server-kit";

/// Test programs to which cgroup v2 makes no difference: they would only take their time once more.
const ELSEWHERE: &[&str] = &["access", "hello", "hostile", "protocol"];

/// What cargo says about a program that it built (`--message-format=json`).
#[derive(Debug, Deserialize)]
struct Artifact {
    executable: Option<PathBuf>,
    target: Target,
    profile: Profile,
}

#[derive(Debug, Deserialize)]
struct Target {
    kind: Vec<String>,
    name: String,
}

#[derive(Debug, Deserialize)]
struct Profile {
    test: bool,
}

/// Programs with tests, and those that the tests start.
#[derive(Debug, Default, PartialEq, Eq)]
struct Programs {
    tests: Vec<PathBuf>,
    helpers: Vec<PathBuf>,
}

pub fn run(filter: &[String], report: &mut Report) -> Result<()> {
    let vm = vm()?;
    let build =
        command::cargo(&["test", "--locked", "--package", PACKAGE, "--no-run", "--message-format=json"]);
    eprintln!("+ {}", command::words(&build));
    let programs = programs(&command::output(build)?);
    for test in &programs.tests {
        let mut machine = Command::new(&vm);
        machine.arg("run");
        for helper in &programs.helpers {
            machine.arg("--with").arg(helper);
        }
        machine.arg("--").arg(test).args(SHOWN).args(filter);
        report.add(read(machine)?);
    }
    Ok(())
}

/// The program that starts machines.
fn vm() -> Result<PathBuf> {
    let build = command::cargo(&["build", "--locked", "--package", "kruntimes-vm", "--message-format=json"]);
    let said = command::output(build)?;
    executables(&said)
        .find_map(|artifact| artifact.executable)
        .context("cargo built no program of kruntimes-vm")
}

fn programs(said: &str) -> Programs {
    let mut programs = Programs::default();
    for artifact in executables(said) {
        let is_example = artifact.target.kind.iter().any(|kind| kind == "example");
        if let Some(executable) = artifact.executable {
            match (artifact.profile.test, is_example) {
                (true, false) if ELSEWHERE.contains(&artifact.target.name.as_str()) => {}
                (true, false) => programs.tests.push(executable),
                (false, true) => programs.helpers.push(executable),
                _ => {}
            }
        }
    }
    programs
}

fn executables(said: &str) -> impl Iterator<Item = Artifact> {
    said.lines()
        .filter_map(|line| serde_json::from_str::<Artifact>(line).ok())
        .filter(|artifact| artifact.executable.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_programs_and_their_helpers_are_told_apart() {
        let line = |kind: &str, name: &str, test: bool, executable: &str| {
            format!(
                r#"{{"reason":"compiler-artifact","target":{{"kind":["{kind}"],"name":"{name}"}},"profile":{{"test":{test}}},"executable":{executable}}}"#
            )
        };
        let said = [
            line("lib", "server_kit", false, "null"),
            line("lib", "server_kit", true, "\"/t/lib\""),
            line("test", "limits", true, "\"/t/suite\""),
            line("test", "hello", true, "\"/t/hello\""),
            line("example", "shell", false, "\"/t/shell\""),
            r#"{"reason":"build-finished","success":true}"#.to_owned(),
        ]
        .join("\n");
        let path = |text: &str| PathBuf::from(text);
        let expected =
            Programs { tests: vec![path("/t/lib"), path("/t/suite")], helpers: vec![path("/t/shell")] };
        assert_eq!(programs(&said), expected);
    }
}
