//! Memory and CPU time of the platform's processes, from `/proc`.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result};

/// A process of the platform.
#[derive(Debug)]
pub struct Process {
    pub pid: u32,
    /// Which part it is: the program's name, or `local_api` for the one that holds the API and starts Pods.
    pub part: String,
    /// Resident memory (`VmRSS`), bytes.
    memory: f64,
    /// User and system time, seconds.
    cpu: f64,
    /// Open file descriptors.
    descriptors: usize,
}

/// Ticks of `/proc/PID/stat`: `USER_HZ`, which is 100 on every architecture this runs on.
const TICKS: f64 = 100.0;

/// Processes whose program lies in `programs` and that belong to the platform in `data_dir`.
pub fn of(programs: &Path, data_dir: &Path) -> Result<Vec<Process>> {
    let platform: serde_json::Value = serde_json::from_slice(
        &std::fs::read(data_dir.join("platform.json")).context("the platform says no process id")?,
    )?;
    let api = platform["pid"].as_u64();
    every(|pid| read(pid, programs, data_dir, api))
}

/// Processes in a cgroup one part of whose path is `cgroup`, each called after its program.
pub fn of_cgroup(cgroup: &str) -> Result<Vec<Process>> {
    every(|pid| {
        let proc = Path::new("/proc").join(pid.to_string());
        let inside = std::fs::read(proc.join("cgroup")).is_ok_and(|text| contains(&text, cgroup.as_bytes()));
        let program = inside.then(|| std::fs::read_link(proc.join("exe")).ok()).flatten()?;
        named(pid, program.file_name()?.to_str()?)
    })
}

fn every(read: impl Fn(u32) -> Option<Process>) -> Result<Vec<Process>> {
    let mut processes = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        // A process that ends while we look is none.
        processes.extend(read(pid));
    }
    Ok(processes)
}

/// A process with the name of its part.
pub fn named(pid: u32, part: &str) -> Option<Process> {
    let proc = Path::new("/proc").join(pid.to_string());
    let status = std::fs::read_to_string(proc.join("status")).ok()?;
    let stat = std::fs::read_to_string(proc.join("stat")).ok()?;
    let descriptors = std::fs::read_dir(proc.join("fd")).map_or(0, Iterator::count);
    let part = part.replace('-', "_");
    Some(Process { pid, part, memory: resident(&status)?, cpu: cpu(&stat)?, descriptors })
}

fn read(pid: u32, programs: &Path, data_dir: &Path, api: Option<u64>) -> Option<Process> {
    let proc = Path::new("/proc").join(pid.to_string());
    let program = std::fs::read_link(proc.join("exe")).ok()?;
    let folder = data_dir.to_str()?.as_bytes();
    let speaks_of = |file| std::fs::read(proc.join(file)).is_ok_and(|text| contains(&text, folder));
    if program.parent() != Some(programs) || !(speaks_of("cmdline") || speaks_of("environ")) {
        return None;
    }
    let name = program.file_name()?.to_str()?;
    let part = match name {
        "krt" if api == Some(u64::from(pid)) => "local_api",
        "krt" => "container_init",
        "kruntimes-bench" => return None,
        other => other,
    };
    named(pid, part)
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

fn resident(status: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<f64>().ok().map(|kib| kib * 1024.0)
}

/// Fields 14 and 15; the name in field 2 may hold anything, so count from behind its parenthesis.
fn cpu(stat: &str) -> Option<f64> {
    let fields: Vec<_> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?;
    Some(ticks / TICKS)
}

/// The largest process of each part, bytes.
pub fn memory(processes: &[Process]) -> BTreeMap<String, f64> {
    let mut largest = BTreeMap::<_, f64>::new();
    for process in processes {
        let known = largest.entry(process.part.clone()).or_default();
        *known = known.max(process.memory);
    }
    largest
}

/// What all processes of a part hold at one moment.
#[derive(Debug, Default)]
pub struct Held {
    /// Resident memory, bytes.
    pub memory: f64,
    /// Open file descriptors.
    pub descriptors: usize,
    pub processes: usize,
}

/// The sum of each part.
pub fn held(processes: &[Process]) -> BTreeMap<String, Held> {
    let mut parts = BTreeMap::<_, Held>::new();
    for process in processes {
        let part = parts.entry(process.part.clone()).or_default();
        part.memory += process.memory;
        part.descriptors += process.descriptors;
        part.processes += 1;
    }
    parts
}

/// CPU time of each process at one moment.
pub struct Sample(BTreeMap<u32, (String, f64)>);

impl Sample {
    pub fn take(processes: &[Process]) -> Self {
        Self(processes.iter().map(|process| (process.pid, (process.part.clone(), process.cpu))).collect())
    }

    /// Seconds of each part since `before`, all its processes together.
    pub fn since(&self, before: &Self) -> BTreeMap<String, f64> {
        let mut spent = BTreeMap::<_, f64>::new();
        for (pid, (part, now)) in &self.0 {
            let then = before.0.get(pid).map_or(0.0, |(_, then)| *then);
            *spent.entry(part.clone()).or_default() += now - then;
        }
        spent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_files_are_understood() {
        assert_eq!(resident("Name:\tkrt\nVmRSS:\t    2048 kB\nThreads:\t3\n"), Some(2_097_152.0));
        let stat = "42 (a) b) S 1 42 42 0 -1 4194560 100 0 0 0 150 50 0 0 20 0 3 0 100 0 0";
        assert_eq!(cpu(stat), Some(2.0));
    }

    #[test]
    fn cpu_time_adds_up_over_the_processes_of_a_part() {
        let process = |pid, cpu| Process { pid, part: "runtimed".into(), memory: 0.0, cpu, descriptors: 0 };
        let before = Sample::take(&[process(1, 1.0), process(2, 5.0)]);
        let after = Sample::take(&[process(1, 1.5), process(2, 6.0), process(3, 0.25)]);
        assert_eq!(after.since(&before)["runtimed"], 1.75);
    }
}
