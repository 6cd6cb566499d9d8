//! `cargo xtask bench kit`: the server kit beside bare processes, on this machine and in the virtual machine.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use clap::Parser;

use crate::command;
use crate::workspace::Workspace;

/// Measure the server kit beside bare processes, without limits here and with limits in the virtual machine.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask bench kit", bin_name = "cargo xtask bench kit")]
struct Args {
    /// Write the figures there, as one flat JSON object
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Executions per measurement
    #[arg(long, default_value_t = 500)]
    runs: usize,
    /// Instead: executions through one server, on this machine, that must leave nothing
    #[arg(long, value_name = "RUNS", default_value_t = 0)]
    soak: usize,
    /// With the development profile, to try the measurement itself
    #[arg(long)]
    dev: bool,
}

/// Programs that a place for a server is furnished with, beside the server.
const HELPERS: &[&str] = &["attack", "load"];

type Figures = BTreeMap<String, f64>;

/// The places, and the level that each is there for: its figures keep their names.
const HERE: (&str, &str) = ("native", "none");
const VM: (&str, &str) = ("vm", "limits");

pub fn run(arguments: &[String]) -> Result<()> {
    let args = Args::parse_from(std::iter::once("kit").chain(arguments.iter().map(String::as_str)));
    let target = Workspace::open()?.metadata()?.target_directory;
    let folder = target.join(if args.dev { "debug" } else { "release" });
    let profile: &[&str] = if args.dev { &[] } else { &["--release"] };
    let mut build = command::cargo(&["build", "--locked", "--workspace", "--bin", "vm"]);
    build.args(profile);
    // Each of the others would take as long as these.
    build.args(["bench", "shell"].iter().chain(HELPERS).flat_map(|name| ["--example", *name]));
    command::shown(build)?;
    let bench = folder.join("examples/bench");
    let runs = args.runs.to_string();
    let mut figures = Figures::new();
    if args.soak > 0 {
        let mut soak = Command::new(&bench);
        soak.args(["--runs", "0", "--soak", &args.soak.to_string()]);
        figures = measured(soak)?;
    } else {
        let mut here = Command::new(&bench);
        here.args(["--runs", &runs]);
        add(&mut figures, HERE, measured(here)?);
        add(&mut figures, VM, measured(in_vm(&folder, &bench, &runs))?);
        // Where the virtual machine cannot run it, the comparison with the limits of this machine stands.
        if let Some(&speedup) = figures.get("native_runc_speedup") {
            figures.entry("runc_speedup".to_owned()).or_insert(speedup);
        }
    }
    for (name, value) in &figures {
        println!("{name:40} {value:12.3}");
    }
    if let Some(file) = &args.json {
        let text = serde_json::to_string_pretty(&figures)?;
        std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}

fn in_vm(folder: &Path, bench: &Path, runs: &str) -> Command {
    let mut machine = Command::new(folder.join("vm"));
    machine.args(["run", "--timeout", "1800"]);
    for helper in ["shell"].iter().chain(HELPERS) {
        machine.arg("--with").arg(folder.join("examples").join(helper));
    }
    if let Some(runc) = on_path("runc") {
        machine.arg("--with").arg(runc);
    }
    machine.arg("--").arg(bench).args(["--runs", runs]);
    machine
}

fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into()])
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}

/// Runs a measurement. What it says beside its figures, a reason for having none among it, is for people.
fn measured(bench: Command) -> Result<Figures> {
    eprintln!("+ {}", command::words(&bench));
    let said = command::output(bench)?;
    let (words, json) = said.split_at(said.find("{\n").unwrap_or(said.len()));
    eprint!("{words}");
    if json.is_empty() {
        Ok(Figures::new())
    } else {
        serde_json::from_str(json).context("the figures are no JSON")
    }
}

/// Figures of a place's own level keep their names; others say where they are from.
fn add(all: &mut Figures, (place, own): (&str, &str), figures: Figures) {
    for (name, value) in figures {
        let is_own = name.ends_with(own) || (name == "runc_speedup" && own == VM.1);
        all.insert(if is_own { name } else { format!("{place}_{name}") }, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_both_places_stand_side_by_side() {
        let figures =
            |names: &[&str]| names.iter().map(|name| ((*name).to_owned(), 1.0)).collect::<Figures>();
        let mut all = Figures::new();
        for place in [HERE, VM] {
            add(&mut all, place, figures(&["exec_p50_ratio_none", "exec_p50_ratio_limits", "runc_speedup"]));
        }
        let names: Vec<_> = all.keys().map(String::as_str).collect();
        let own = ["exec_p50_ratio_limits", "exec_p50_ratio_none"];
        let others =
            ["native_exec_p50_ratio_limits", "native_runc_speedup", "runc_speedup", "vm_exec_p50_ratio_none"];
        assert_eq!(names, [&own[..], &others[..]].concat());
    }
}
