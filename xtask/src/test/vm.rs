//! The suite in the virtual machine: each test program of the server kit in a machine of its own.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};
use serde::Deserialize;

use super::report::Report;
use super::{SHOWN, exactly, read};
use crate::command;

/// The package whose tests run in there.
const PACKAGE: &str = "/server-kit#";

/// Test programs to which cgroup v2 makes no difference: they would only take their time once more.
const ELSEWHERE: &[&str] = &["access", "hello", "hostile", "protocol"];

/// Seconds for one test program: an emulated machine on a busy one is slow.
const TIMEOUT: &str = "1500";

/// The exit status of `vm run` for a machine that ended before its program.
const LOST: i32 = 125;

/// What cargo says about a program that it built (`--message-format=json`).
#[derive(Debug, Deserialize)]
struct Artifact {
    /// `path+file:///FOLDER#VERSION`.
    package_id: String,
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
    /// The program that starts machines.
    vm: Option<PathBuf>,
}

/// With `again`, a program whose machine was lost, and up to three of its tests that failed, run once more.
pub fn run(filter: &[String], again: bool, report: &mut Report) -> Result<()> {
    // The whole workspace, as everywhere: one package alone would have its dependencies built once more.
    let build = command::cargo(&["test", "--locked", "--workspace", "--no-run", "--message-format=json"]);
    eprintln!("+ {}", command::words(&build));
    let programs = programs(&command::output(build)?);
    let vm = programs.vm.context("cargo built no program `vm`")?;
    for test in &programs.tests {
        let run = |filter: &[String]| {
            let mut machine = Command::new(&vm);
            machine.args(["run", "--timeout", TIMEOUT]);
            for helper in &programs.helpers {
                machine.arg("--with").arg(helper);
            }
            machine.arg("--").arg(test).args(SHOWN).args(filter);
            read(machine)
        };
        let mut ran = run(filter)?;
        if again && ran.status == Some(LOST) {
            let name = test.file_name().unwrap_or_default().to_string_lossy().into_owned();
            eprintln!("once more: {name}");
            ran = run(filter)?;
            ran.unsteady.push(name);
        }
        report.add(if again { ran.once_more(|failed| run(&exactly(failed)))? } else { ran });
    }
    Ok(())
}

fn programs(said: &str) -> Programs {
    let mut programs = Programs::default();
    for artifact in executables(said) {
        let Artifact { package_id, executable: Some(executable), target, profile } = artifact else {
            continue;
        };
        let is = |kind: &str| target.kind.iter().any(|of| of == kind);
        if is("bin") && target.name == "vm" && !profile.test {
            programs.vm = Some(executable);
        } else if package_id.contains(PACKAGE) {
            match (profile.test, is("example")) {
                (true, false) if ELSEWHERE.contains(&target.name.as_str()) => {}
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
            let folder = if name == "vm" || name == "other" { "tests/vm" } else { "server-kit" };
            format!(
                r#"{{"package_id":"path+file:///w/{folder}#0.1.0","reason":"compiler-artifact","target":{{"kind":["{kind}"],"name":"{name}"}},"profile":{{"test":{test}}},"executable":{executable}}}"#
            )
        };
        let said = [
            line("lib", "server_kit", false, "null"),
            line("lib", "server_kit", true, "\"/t/lib\""),
            line("test", "limits", true, "\"/t/suite\""),
            line("test", "hello", true, "\"/t/hello\""),
            line("example", "shell", false, "\"/t/shell\""),
            line("bin", "vm", false, "\"/t/vm\""),
            line("test", "other", true, "\"/t/other\""),
            r#"{"reason":"build-finished","success":true}"#.to_owned(),
        ]
        .join("\n");
        let path = |text: &str| PathBuf::from(text);
        let expected = Programs {
            tests: vec![path("/t/lib"), path("/t/suite")],
            helpers: vec![path("/t/shell")],
            vm: Some(path("/t/vm")),
        };
        assert_eq!(programs(&said), expected);
    }
}
