//! `cargo xtask bench kit`: the server kit beside bare processes, on this machine and in the virtual machine.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
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
    /// Instead: executions through one server of each level on this machine, and a tenth as many in the virtual machine, that
    /// must leave nothing
    #[arg(long, value_name = "RUNS", default_value_t = 0)]
    soak: usize,
    /// With the development profile, to try the measurement itself
    #[arg(long)]
    dev: bool,
}

/// Programs that a place for a server is furnished with, beside the server.
const HELPERS: &[&str] = &["attack", "load"];

type Figures = BTreeMap<String, f64>;

/// What a figure must be at most, or at least.
enum Aim {
    Most(f64),
    Least(f64),
}

/// Held by every measurement that has the figure. `runc_speedup` is not among them: how far it is from its aim, and why, is in
/// docs/benchmarks.md.
const AIMS: &[(&str, Aim)] = &[
    ("exec_p50_ratio_none", Aim::Most(2.5)),
    ("exec_p50_ratio_limits", Aim::Most(3.0)),
    ("throughput_ratio_none", Aim::Least(0.5)),
    ("throughput_ratio_limits", Aim::Least(0.5)),
    ("server_idle_mib_none", Aim::Most(20.0)),
    ("server_idle_mib_limits", Aim::Most(20.0)),
];

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
    let (mut here, mut there) = (Command::new(&bench), in_vm(&folder, &bench));
    if args.soak > 0 {
        here.args(["--runs", "0", "--soak", &args.soak.to_string()]);
        // Its processor is emulated; what only version 2 could leak is with hard limits.
        there.args(["--runs", "0", "--level", "limits", "--soak", &args.soak.div_ceil(10).to_string()]);
    } else {
        here.args(["--runs", &args.runs.to_string()]);
        there.args(["--runs", &args.runs.to_string()]);
    }
    let mut figures = Figures::new();
    add(&mut figures, HERE, measured(here)?);
    add(&mut figures, VM, measured(there)?);
    // Where the virtual machine cannot run it, the comparison with the limits of this machine stands.
    if let Some(&speedup) = figures.get("native_runc_speedup") {
        figures.entry("runc_speedup".to_owned()).or_insert(speedup);
    }
    for (name, value) in &figures {
        println!("{name:40} {value:12.3}");
    }
    if let Some(file) = &args.json {
        let text = serde_json::to_string_pretty(&figures)?;
        std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?;
    }
    let missed = missed(&figures);
    ensure!(missed.is_empty(), "short of the aim: {}", missed.join(", "));
    Ok(())
}

fn missed(figures: &Figures) -> Vec<String> {
    let miss = |(name, aim): &(&str, Aim)| {
        let value = *figures.get(*name)?;
        match aim {
            Aim::Most(most) if value > *most => Some(format!("{name} is {value:.2}, at most {most}")),
            Aim::Least(least) if value < *least => Some(format!("{name} is {value:.2}, at least {least}")),
            Aim::Most(_) | Aim::Least(_) => None,
        }
    };
    AIMS.iter().filter_map(miss).collect()
}

/// The measurement in the virtual machine; what is added are its own arguments.
fn in_vm(folder: &Path, bench: &Path) -> Command {
    let mut machine = Command::new(folder.join("vm"));
    machine.args(["run", "--timeout", "3600"]);
    for helper in ["shell"].iter().chain(HELPERS) {
        machine.arg("--with").arg(folder.join("examples").join(helper));
    }
    if let Some(runc) = on_path("runc") {
        machine.arg("--with").arg(runc);
    }
    machine.arg("--").arg(bench);
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
    fn a_figure_beyond_its_aim_is_named() {
        let figures = |ratio: f64, rate: f64| {
            let figures =
                [("exec_p50_ratio_limits", ratio), ("throughput_ratio_none", rate), ("other", 99.0)];
            figures.map(|(name, value)| (name.to_owned(), value)).into()
        };
        assert!(missed(&figures(3.0, 0.5)).is_empty());
        let both = missed(&figures(3.1, 0.4)).join("; ");
        assert_eq!(
            both,
            "exec_p50_ratio_limits is 3.10, at most 3; throughput_ratio_none is 0.40, at least 0.5"
        );
    }

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
