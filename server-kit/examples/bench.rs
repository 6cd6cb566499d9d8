//! The kit beside a bare spawn, on one machine in one run; `cargo xtask bench kit` builds and calls it.
//!
//! Prints one flat JSON object. Each figure ends in the level that was measured: `none` is a server without rights whose
//! Runs have nothing but a supervisor, `restricted` one with as few rights whose Runs have every fence that holds all the same
//! and policed limits, `limits` one with all rights whose Runs have hard limits and every fence that holds here.
//! Beside them stand `fork` (this small process is copied, then execs, as a plain fork and exec does) and `spawn`
//! (the standard library's, which suspends its caller instead of copying it), the same program each time.
#![allow(clippy::expect_used, clippy::panic, reason = "a benchmark fails by panic")]
#![allow(unsafe_code, reason = "an empty pre_exec makes the standard library fork")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for people")]

#[path = "../tests/common/mod.rs"]
mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::{Parser, ValueEnum};
use common::job;
use common::place::{Placed, Rights};
use kruntimes_proto::v1::watch_event::Event;
use kruntimes_proto::v1::{ExecuteRequest, IsolationLevel, WatchEvent, WatchRequest};
use serde_json::json;
use tonic::Streaming;

const PROGRAM: &str = "/bin/true";
/// Of a Run with limits.
const LIMITS: &[(&str, &str)] = &[("memory", "64Mi"), ("pids", "24"), ("cpu", "1")];
/// Turns off what can be turned off.
const FLOOR: &str = "files=directory,devices=variables,privileges=no-new-privs";
/// Turns of the measurement: what else the machine does then hits all sides.
const TURNS: usize = 5;
/// What a server and what forks its supervisors may grow by in a soak.
const GROWTH_MIB: f64 = 5.0;
/// Executions under way at once when throughput is measured.
const WIDTH: usize = 32;

#[derive(Debug, Parser)]
struct Args {
    /// What to measure
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["none", "restricted", "limits"])]
    level: Vec<Level>,
    /// Executions per measurement
    #[arg(long, default_value_t = 500)]
    runs: usize,
    /// Executions through one server that must leave nothing; 0 is none
    #[arg(long, default_value_t = 0)]
    soak: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Level {
    None,
    Restricted,
    Limits,
}

#[derive(Default)]
struct Figures(Vec<(String, f64)>);

impl Figures {
    fn add(&mut self, name: impl Into<String>, value: f64) {
        self.0.push((name.into(), value));
    }

    fn print(&self) {
        let lines: Vec<_> = self.0.iter().map(|(name, value)| format!("  \"{name}\": {value:.3}")).collect();
        println!("{{\n{}\n}}", lines.join(",\n"));
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let args = Args::parse();
    let mut figures = Figures::default();
    let mut clean = true;
    for level in &args.level {
        let Some(mut bench) = Bench::start(*level).await else { continue };
        if args.runs > 0 {
            bench.latency(args.runs, &mut figures).await;
            bench.throughput(args.runs, &mut figures).await;
        }
        if args.soak > 0 {
            clean &= bench.soak(args.soak, &mut figures).await;
        }
        bench.placed.end().await;
    }
    figures.print();
    assert!(clean, "the soak left something or grew: see above");
}

/// A server at one level.
struct Bench {
    level: Level,
    placed: Placed,
    watch: Streaming<WatchEvent>,
    next: usize,
}

impl Bench {
    async fn start(level: Level) -> Option<Self> {
        let args = ["--max-executions=1024"];
        let mut placed = match level {
            Level::None => {
                let args = [args[0], "--cgroup-parent=none"];
                Placed::start(Rights::Restricted, &args, &[("KRUNTIME_ISOLATION", FLOOR)]).await?
            }
            Level::Restricted => Placed::start(Rights::Restricted, &args, &[]).await?,
            Level::Limits => Placed::start(Rights::All, &args, &[]).await?,
        };
        eprintln!("{level:?}:\n{}", placed.printout());
        if level == Level::Limits && !placed.mechanism("limits").starts_with("cgroup") {
            eprintln!("limits are not held by control groups here: not measured");
            return None;
        }
        assert!(
            level == Level::Limits || placed.level("limits") != IsolationLevel::Hard,
            "a server without rights has hard limits"
        );
        let watch = placed.server.events.watch(WatchRequest {}).await.expect("watch").into_inner();
        Some(Self { level, placed, watch, next: 0 })
    }

    fn name(&self, figure: &str) -> String {
        format!("{figure}_{}", format!("{:?}", self.level).to_lowercase())
    }

    fn request(&mut self) -> (ExecuteRequest, PathBuf) {
        self.next += 1;
        let mut request = job(&format!("run-{}", self.next), &[PROGRAM]);
        request.working_dir = self.placed.work(&request.id);
        if self.level != Level::None {
            request.limits = LIMITS.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        }
        let folder = PathBuf::from(&request.working_dir);
        (request, folder)
    }

    /// Waits for the next end; gives when its process began, and its id.
    async fn ended(&mut self) -> (i64, String) {
        loop {
            let event = self.watch.message().await.expect("event").expect("event").event;
            if let Some(Event::Execution(status)) = event
                && status.finished_at > 0
            {
                assert_eq!(status.exit_code, 0, "{status:?}");
                return (status.started_at, status.id);
            }
        }
    }

    /// From Execute to exec and to the sight of the end, one at a time.
    async fn one_by_one(&mut self, runs: usize) -> Vec<Times> {
        let mut times = Vec::new();
        for _ in 0..runs {
            let (request, folder) = self.request();
            let (wall, start) = (now(), Instant::now());
            self.placed.server.execute(request).await.expect("accepted");
            let (started, id) = self.ended().await;
            let exec = u64::try_from(started - wall).unwrap_or(0);
            times.push(Times { exec, end: micros(start.elapsed()) });
            self.placed.server.forget(&id).await.expect("forgets");
            std::fs::remove_dir_all(folder).expect("removed");
        }
        times
    }

    async fn latency(&mut self, runs: usize, figures: &mut Figures) {
        self.one_by_one(20).await;
        let idle = common::resident(self.placed.server.pid());
        let runc = Runc::new(self.level).inspect_err(|why| eprintln!("runc is not measured: {why}")).ok();
        let (mut fork, mut spawn, mut kit, mut beside) = (vec![], vec![], vec![], vec![]);
        for _ in 0..TURNS {
            fork.extend(bare(runs / TURNS, bare_fork));
            spawn.extend(bare(runs / TURNS, bare_spawn));
            kit.extend(self.one_by_one(runs / TURNS).await);
            beside.extend(runc.as_ref().map(|runc| runc.run(6)).unwrap_or_default());
        }
        for (name, all) in [("fork", &fork), ("spawn", &spawn), ("kit", &kit)] {
            for percent in [50, 95, 99] {
                let exec = percentile(all, percent, |times| times.exec);
                figures.add(self.name(&format!("{name}_exec_p{percent}_us")), exec);
            }
            let end = percentile(all, 50, |times| times.end);
            figures.add(self.name(&format!("{name}_end_p50_us")), end);
        }
        let exec = |all: &[Times]| percentile(all, 50, |times| times.exec);
        let end = |all: &[Times]| percentile(all, 50, |times| times.end);
        figures.add(self.name("exec_p50_ratio"), exec(&kit) / exec(&fork));
        figures.add(self.name("exec_p50_ratio_spawn"), exec(&kit) / exec(&spawn));
        figures.add(self.name("end_p50_ratio"), end(&kit) / end(&fork));
        #[allow(clippy::cast_precision_loss, reason = "a few MiB")]
        figures.add(self.name("server_idle_mib"), idle as f64 / f64::from(1 << 20));
        if !beside.is_empty() {
            figures.add(self.name("runc_end_p50_us"), end(&beside));
            figures.add("runc_speedup", end(&beside) / end(&kit));
        }
    }

    /// Executions with `WIDTH` under way at once, beside a loop of bare ones on the same processors.
    async fn throughput(&mut self, runs: usize, figures: &mut Figures) {
        let (mut bare_time, mut kit_time) = (Duration::ZERO, Duration::ZERO);
        let before = self.processor_times();
        for _ in 0..TURNS {
            let start = Instant::now();
            bare(runs / TURNS, bare_fork);
            bare_time += start.elapsed();
            let start = Instant::now();
            self.many(runs / TURNS).await;
            kit_time += start.elapsed();
        }
        #[allow(clippy::cast_precision_loss, reason = "small counts")]
        let count = (runs / TURNS * TURNS) as f64;
        for ((part, after), (_, before)) in self.processor_times().into_iter().zip(before) {
            figures.add(self.name(&format!("cpu_us_per_run_{part}")), (after - before) * 1e6 / count);
        }
        let (bare_rate, kit_rate) = (count / bare_time.as_secs_f64(), count / kit_time.as_secs_f64());
        figures.add(self.name("fork_per_second"), bare_rate);
        figures.add(self.name("kit_per_second"), kit_rate);
        figures.add(self.name("throughput_ratio"), kit_rate / bare_rate);
    }

    /// Seconds that each part used so far: the server, what forks and reaps supervisors, these with their Runs, and this client.
    fn processor_times(&self) -> [(&'static str, f64); 4] {
        let server = self.placed.server.pid();
        let nursery = common::children(server)[0];
        let [server, nursery, client] =
            [server, nursery, std::process::id().cast_signed()].map(processor_seconds);
        [("server", server.0), ("nursery", nursery.0), ("supervisors", nursery.1), ("client", client.0)]
    }

    async fn many(&mut self, runs: usize) {
        let (mut begun, mut done) = (0, 0);
        while done < runs {
            while begun < runs && begun - done < WIDTH {
                let (request, _) = self.request();
                self.placed.server.execute(request).await.expect("accepted");
                begun += 1;
            }
            let (_, id) = self.ended().await;
            done += 1;
            self.placed.server.forget(&id).await.expect("forgets");
            std::fs::remove_dir_all(self.placed.server.work_dir().join(id)).expect("removed");
        }
    }

    /// What a server has before and after very many executions; whether that is the same.
    async fn soak(&mut self, runs: usize, figures: &mut Figures) -> bool {
        self.many(2000.min(runs)).await;
        let before = self.settled(|_| true).await;
        let start = Instant::now();
        self.many(runs).await;
        eprintln!("soak: {runs} executions in {:.0} s", start.elapsed().as_secs_f64());
        let after = self.settled(|now| now.leaks_beside(&before) == 0).await;
        eprintln!("soak: before {before:?}\nsoak: after  {after:?}");
        #[allow(clippy::cast_precision_loss, reason = "counts and a few MiB")]
        {
            let leaks = after.leaks_beside(&before);
            let grown = (after.resident as f64 - before.resident as f64) / f64::from(1 << 20);
            figures.add(self.name("soak_runs"), runs as f64);
            figures.add(self.name("soak_leaks"), leaks as f64);
            figures.add(self.name("soak_rss_growth_mib"), grown);
            leaks == 0 && grown <= GROWTH_MIB
        }
    }

    /// Looks until it `holds`, or for ten seconds: supervisors of a burst go one after the other.
    async fn settled(&self, holds: impl Fn(&Inventory) -> bool) -> Inventory {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let now = Inventory::of(&self.placed);
            if (holds(&now) && now.processes <= 16) || Instant::now() > deadline {
                return now;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// What a server has that could leak.
#[derive(Debug)]
struct Inventory {
    groups: usize,
    descriptors: usize,
    processes: usize,
    zombies: usize,
    /// Most that a process has; those of ended Runs are held by a process or a descriptor, or are gone.
    mounts: usize,
    /// Of Runs, of their leases, and what lies in shared memory.
    folders: usize,
    resident: u64,
}

impl Inventory {
    fn of(placed: &Placed) -> Self {
        let server = placed.server.pid();
        let tree = descendants(server);
        let zombie = |pid: &&i32| {
            std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z "))
        };
        let entries = |path: &Path| std::fs::read_dir(path).map_or(0, Iterator::count);
        let nursery = common::children(server)[0];
        let mounts = |pid: &i32| {
            std::fs::read_to_string(format!("/proc/{pid}/mountinfo")).map_or(0, |text| text.lines().count())
        };
        let descriptors = |pid: i32| entries(Path::new(&format!("/proc/{pid}/fd")));
        let leases = placed.server.socket_dir().join(".leases");
        Self {
            groups: placed.groups(),
            descriptors: descriptors(server) + descriptors(nursery),
            processes: tree.len(),
            zombies: tree.iter().filter(zombie).count(),
            mounts: tree.iter().map(mounts).max().unwrap_or(0),
            folders: [placed.server.work_dir(), leases, "/dev/shm".into()]
                .iter()
                .map(|path| entries(path))
                .sum(),
            resident: common::resident(server) + common::resident(nursery),
        }
    }

    /// More of anything than before. Twice the idle supervisors may stay, each with a descriptor and a group made ahead.
    fn leaks_beside(&self, before: &Self) -> usize {
        const POOLED: usize = 8;
        let more = |now: usize, then: usize, allowed: usize| now.saturating_sub(then + allowed);
        more(self.groups, before.groups, POOLED * 8)
            + more(self.descriptors, before.descriptors, POOLED * 2)
            + more(self.processes, before.processes, POOLED)
            + self.zombies
            + more(self.mounts, before.mounts, 0)
            + more(self.folders, before.folders, 0)
    }
}

fn descendants(pid: i32) -> Vec<i32> {
    let mut all = common::children(pid);
    for child in all.clone() {
        all.extend(descendants(child));
    }
    all
}

/// Microseconds from the order to exec, and to the end.
#[derive(Clone, Copy)]
struct Times {
    exec: u64,
    end: u64,
}

fn bare_spawn() -> Command {
    let mut command = Command::new(PROGRAM);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn bare_fork() -> Command {
    use std::os::unix::process::CommandExt as _;
    let mut command = bare_spawn();
    // SAFETY: does nothing.
    unsafe { command.pre_exec(|| Ok(())) };
    command
}

/// One at a time.
fn bare(runs: usize, command: fn() -> Command) -> Vec<Times> {
    let one = |_| {
        let start = Instant::now();
        let mut child = command().spawn().expect("spawns");
        let exec = micros(start.elapsed());
        child.wait().expect("ends");
        Times { exec, end: micros(start.elapsed()) }
    };
    (0..runs).map(one).collect()
}

/// A container of the same program, for `runc run`.
struct Runc {
    bundle: tempfile::TempDir,
}

impl Runc {
    fn new(level: Level) -> Result<Self, String> {
        if level != Level::Limits {
            return Err("a container has hard limits, it is compared with those".into());
        }
        let bundle = tempfile::tempdir_in("/var/tmp").map_err(|error| error.to_string())?;
        let said = Command::new("runc").arg("spec").current_dir(&bundle).output();
        said.map_err(|error| format!("runc: {error}"))?;
        let path = bundle.path().join("config.json");
        let spec = std::fs::read_to_string(&path).map_err(|error| format!("runc spec: {error}"))?;
        let mut spec: serde_json::Value = serde_json::from_str(&spec).map_err(|error| error.to_string())?;
        spec["process"]["terminal"] = json!(false);
        spec["process"]["args"] = json!([PROGRAM]);
        // As `LIMITS`.
        spec["linux"]["resources"]["memory"] = json!({"limit": 64 << 20});
        spec["linux"]["resources"]["pids"] = json!({"limit": 24});
        spec["linux"]["resources"]["cpu"] = json!({"quota": 100_000, "period": 100_000});
        std::fs::write(&path, spec.to_string()).map_err(|error| error.to_string())?;
        let root = bundle.path().join("rootfs");
        let script = r#"set -e; mkdir -p "$1"; cd "$1"; mkdir -p usr/bin usr/lib usr/lib64; ln -s usr/bin usr/lib usr/lib64 .
            for file in "$2" $(ldd "$2" | grep -o '/[^ )]*'); do mkdir -p ".${file%/*}"; cp "$file" ".$file"; done"#;
        let made = Command::new("bash").args(["-c", script, "bundle"]).arg(&root).arg(PROGRAM).output();
        let made = made.map_err(|error| error.to_string())?;
        if !made.status.success() {
            return Err(String::from_utf8_lossy(&made.stderr).into_owned());
        }
        let runc = Self { bundle };
        runc.once("probe").map(|_| runc)
    }

    fn once(&self, id: &str) -> Result<Times, String> {
        let start = Instant::now();
        let id = format!("kruntimes-bench-{}-{id}", std::process::id());
        let mut command = Command::new("runc");
        command.args(["run", "--bundle"]).arg(self.bundle.path()).arg(id).stdin(Stdio::null());
        let output = command.output().map_err(|error| error.to_string())?;
        let end = micros(start.elapsed());
        if output.status.success() {
            Ok(Times { exec: end, end })
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }

    fn run(&self, runs: usize) -> Vec<Times> {
        (0..runs).map(|run| self.once(&run.to_string()).expect("runc runs")).collect()
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).expect("short")
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    i64::try_from(since.as_micros()).expect("soon")
}

#[allow(clippy::cast_precision_loss, reason = "microseconds of a spawn")]
fn percentile(all: &[Times], percent: usize, of: impl Fn(&Times) -> u64) -> f64 {
    let mut values: Vec<_> = all.iter().map(of).collect();
    values.sort_unstable();
    values[(values.len() - 1) * percent / 100] as f64
}

/// Of a process itself and of all that it reaped (proc(5)).
fn processor_seconds(pid: i32) -> (f64, f64) {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("stat");
    let fields: Vec<&str> = stat[stat.rfind(')').expect("a name") + 2..].split(' ').collect();
    let ticks = |field: usize| f64::from(fields[field - 3].parse::<u32>().expect("a number")) / 100.0;
    (ticks(14) + ticks(15), ticks(16) + ticks(17))
}
