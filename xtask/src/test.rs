//! `cargo xtask test`: set-up, the suites, one closing line, and the gate on what was skipped.

mod report;
mod skips;
mod vm;

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result};
use clap::ValueEnum;

use crate::command;
use crate::workspace::Workspace;
use report::Report;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Run one suite
    #[arg(long, value_name = "SUITE")]
    only: Vec<Suite>,
    /// Kubernetes of the suite `api`, such as 1.32.13, built once [default: the version of the suite `node`]
    #[arg(long, value_name = "VERSION")]
    kubernetes: Option<String>,
    /// Run up to three tests of a suite that failed once more, alone; those that then pass are named as unsteady and fail nothing
    #[arg(long)]
    again: bool,
    /// For the test programs, for instance a part of a test's name
    #[arg(last = true)]
    filter: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Suite {
    /// Every package's own tests
    Unit,
    /// The behaviour of the whole on the local platform
    Local,
    /// The tests of the server kit once more, in a virtual machine with cgroup v2
    Vm,
    /// Kinds, rules, policies and the schedulers' Lease on a real API server alone; no root is needed
    Api,
    /// The behaviour of the whole on a real Kubernetes node, which is started and ended
    Node,
}

const LOCAL: &[&str] =
    &["--test", "local", "--test", "local_faults", "--test", "local_traces", "--test", "leaders"];
const API: &[&str] = &["--test", "kinds"];
const HAND_OVER: &[&str] = &["--test", "leaders"];
const NODE: &[&str] = &["--test", "node"];

pub fn run(workspace: &Workspace, args: &Args) -> Result<ExitCode> {
    let start = Instant::now();
    let chosen = |suite| args.only.is_empty() || args.only.contains(&suite);
    let mut report = Report::default();
    if chosen(Suite::Unit) {
        eprintln!("unit: every package's own tests");
        // Doc tests are tests of the examples in the documentation.
        let words = ["test", "--locked", "--workspace", "--no-fail-fast"];
        report.add(args.suite(&words, &[], &args.filter)?);
    }
    let places = [
        (Suite::Local, "local: the behaviour of the whole on the local platform", LOCAL),
        (Suite::Api, "api: what an API server says by itself", API),
        (Suite::Api, "api: two schedulers on it", HAND_OVER),
        (Suite::Node, "node: the behaviour of the whole on a real Kubernetes node", NODE),
    ];
    let places: Vec<_> = places.into_iter().filter(|(suite, ..)| chosen(*suite)).collect();
    if !places.is_empty() {
        let mut set_up = set_up(workspace)?;
        set_up.extend(args.kubernetes.as_ref().map(|version| ("KRT_KUBERNETES", PathBuf::from(version))));
        for (_, title, targets) in places {
            eprintln!("{title}");
            // The whole workspace is selected, as everywhere: one package alone would have its dependencies built
            // once more, with fewer features.
            let words = ["test", "--locked", "--workspace", "--no-fail-fast"];
            let mut filter = args.filter.clone();
            if targets == HAND_OVER {
                filter.push("--include-ignored".to_owned());
                if args.filter.is_empty() {
                    filter.push("a_real_api_server".to_owned());
                }
            }
            report.add(args.suite(&[&words, targets].concat(), &set_up, &filter)?);
        }
    }
    if chosen(Suite::Vm) {
        eprintln!("vm: the tests of the server kit in a virtual machine with cgroup v2");
        vm::run(&args.filter, args.again, &mut report)?;
    }
    let allowed = skips::allowed(&workspace.read(skips::LIST))?;
    let unexpected = skips::unexpected(&report.skipped, &allowed);
    close(&report, &unexpected, start);
    Ok(if report.is_good() && unexpected.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Args {
    /// Runs test programs, with what failed once more where that is wanted.
    fn suite(&self, words: &[&str], set_up: &[(&str, PathBuf)], filter: &[String]) -> Result<Report> {
        let first = suite(words, set_up, filter)?;
        if !self.again {
            return Ok(first);
        }
        first.once_more(|test| {
            eprintln!("once more: {test}");
            suite(words, set_up, &exactly(test))
        })
    }
}

/// The filter for one test alone.
fn exactly(test: &str) -> [String; 2] {
    ["--exact".to_owned(), test.to_owned()]
}

/// What the suites of the whole need: our programs and a stock kubectl.
fn set_up(workspace: &Workspace) -> Result<Vec<(&'static str, PathBuf)>> {
    eprintln!("set-up: building our programs");
    command::build()?;
    let programs = workspace.metadata()?.target_directory.join("debug");
    eprintln!("set-up: a stock kubectl (built from its Go module once, into the cache)");
    let mut node = Command::new(programs.join("node"));
    node.arg("kubectl");
    let kubectl = command::output(node)?;
    Ok(vec![("KRT_BIN_DIR", programs), ("KUBECTL", PathBuf::from(kubectl.trim()))])
}

/// Runs test programs, shows what they print, and counts.
fn suite(words: &[&str], set_up: &[(&str, PathBuf)], filter: &[String]) -> Result<Report> {
    let mut cargo = command::cargo(words);
    cargo.arg("--").args(SHOWN).args(filter);
    cargo.envs(set_up.iter().map(|(name, value)| (name, value)));
    read(cargo)
}

/// For test programs: the output of tests that passed is read too, that is where they say what they skipped.
const SHOWN: [&str; 1] = ["--show-output"];

/// Runs a command that runs test programs, shows what they print, and counts.
fn read(mut command: Command) -> Result<Report> {
    let words = command::words(&command);
    eprintln!("+ {words}");
    let mut child = command.stdout(Stdio::piped()).spawn().with_context(|| format!("cannot run {words}"))?;
    let mut report = Report::default();
    let mut reader = report::Reader::default();
    let mut out = std::io::stdout();
    for line in
        BufReader::new(child.stdout.take().with_context(|| format!("no output of {words}"))?).split(b'\n')
    {
        let line = String::from_utf8_lossy(&line?).into_owned();
        if reader.read(&line, &mut report) {
            writeln!(out, "{line}")?;
        }
    }
    let status = child.wait()?;
    report.has_failed |= !status.success();
    report.status = status.code();
    Ok(report)
}

fn close(report: &Report, unexpected: &[&report::Skipped], start: Instant) {
    for skipped in &report.skipped {
        let word =
            if unexpected.contains(&skipped) { "SKIPPED, NOT EXPECTED" } else { "skipped, as expected" };
        println!("{word}: {}: {}", skipped.test, skipped.reason);
    }
    for test in &report.unsteady {
        println!("UNSTEADY: {test} failed, and passed when it was run once more");
    }
    if !unexpected.is_empty() {
        println!(
            "gate: {} tests were skipped that must run here (or belong into {})",
            unexpected.len(),
            skips::LIST
        );
    }
    if report.has_failed && report.failed == 0 {
        println!("gate: cargo failed before or beside the tests, see above");
    }
    println!("test: {} test programs, {:.0} s", report.programs, start.elapsed().as_secs_f64());
    println!(
        "{} passed, {} failed, {} skipped",
        report.passed - report.skipped_in_passed(),
        report.failed,
        report.skipped.len()
    );
}
