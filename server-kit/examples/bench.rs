//! From Execute to exec beside a bare spawn, on one machine in one run:
//! `cargo run -p server-kit --examples && cargo run -p server-kit --example bench [RUNS [SERVER FLAG..]]` (build all
//! examples first). Each execution has a folder of its own, made before it is asked for.
//!
//! Prints one flat JSON object; times in microseconds.
//! `bare` is the standard library's spawn (`posix_spawn`, which suspends its caller instead of copying it);
//! `bare_fork` copies this small process first, as a plain fork and exec does.
#![allow(clippy::expect_used, clippy::panic, reason = "a benchmark fails by panic")]
#![allow(unsafe_code, reason = "an empty pre_exec makes the standard library fork")]

#[path = "../tests/common/mod.rs"]
mod common;

use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use common::{TestServer, job};
use kruntimes_proto::v1::watch_event::Event;
use kruntimes_proto::v1::{ExecuteRequest, WatchEvent, WatchRequest};
use tonic::Streaming;

const PROGRAM: &str = "/bin/true";

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).expect("short")
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    i64::try_from(since.as_micros()).expect("soon")
}

fn percentile(values: &mut [u64], percent: usize) -> u64 {
    values.sort_unstable();
    values[(values.len() - 1) * percent / 100]
}

fn bare() -> Command {
    let mut command = Command::new(PROGRAM);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn bare_fork() -> Command {
    use std::os::unix::process::CommandExt as _;
    let mut command = bare();
    // SAFETY: does nothing.
    unsafe { command.pre_exec(|| Ok(())) };
    command
}

/// Until exec has succeeded, and until the end, one at a time.
fn bare_spawns(runs: usize, command: fn() -> Command) -> (Vec<u64>, Vec<u64>) {
    let one = |_| {
        let start = Instant::now();
        let mut child = command().spawn().expect("spawns");
        let exec = micros(start.elapsed());
        child.wait().expect("ends");
        (exec, micros(start.elapsed()))
    };
    (0..runs).map(one).unzip()
}

/// Waits for the end of `id`.
async fn ended(watch: &mut Streaming<WatchEvent>) -> (i64, String) {
    loop {
        let event = watch.message().await.expect("event").expect("event").event;
        if let Some(Event::Execution(status)) = event
            && status.finished_at > 0
        {
            return (status.started_at, status.id);
        }
    }
}

fn in_folder(server: &TestServer, request: ExecuteRequest) -> ExecuteRequest {
    let folder = server.work_dir().join(&request.id);
    // It is there from the round before.
    let _ = std::fs::create_dir(&folder);
    ExecuteRequest { working_dir: folder.display().to_string(), ..request }
}

async fn kit(server: &mut TestServer, runs: usize) -> (Vec<u64>, Vec<u64>) {
    let mut watch = server.events.watch(WatchRequest {}).await.expect("watch").into_inner();
    let (mut exec, mut end) = (Vec::new(), Vec::new());
    for run in 0..runs {
        let id = format!("one-{run}");
        let request = in_folder(server, job(&id, &[PROGRAM]));
        let (wall, start) = (now(), Instant::now());
        server.execute(request).await.expect("accepted");
        let (started, _) = ended(&mut watch).await;
        end.push(micros(start.elapsed()));
        exec.push(u64::try_from(started - wall).unwrap_or(0));
        server.forget(&id).await.expect("forgets");
    }
    (exec, end)
}

/// Executions per second with `width` under way at once.
async fn throughput(server: &mut TestServer, runs: usize, width: usize) -> f64 {
    let mut watch = server.events.watch(WatchRequest {}).await.expect("watch").into_inner();
    let start = Instant::now();
    let (mut begun, mut done) = (0, 0);
    while done < runs {
        while begun < runs && begun - done < width {
            let request = in_folder(server, job(&format!("many-{begun}"), &[PROGRAM]));
            server.execute(request).await.expect("accepted");
            begun += 1;
        }
        let (_, id) = ended(&mut watch).await;
        done += 1;
        server.forget(&id).await.expect("forgets");
    }
    rate(runs, start)
}

#[allow(clippy::cast_precision_loss, reason = "small counts")]
fn rate(runs: usize, start: Instant) -> f64 {
    runs as f64 / start.elapsed().as_secs_f64()
}

#[allow(clippy::cast_precision_loss, reason = "microseconds of a spawn")]
fn ratio(a: u64, b: u64) -> f64 {
    a as f64 / b as f64
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let runs = std::env::args().nth(1).map_or(500, |text| text.parse().expect("a number of runs"));
    let flags: Vec<String> = std::env::args().skip(2).collect();
    let flags: Vec<&str> =
        ["--max-executions=1024"].into_iter().chain(flags.iter().map(String::as_str)).collect();
    let mut server = TestServer::start(&flags).await;
    kit(&mut server, 20).await;
    bare_spawns(20, bare);
    // In turns, so that what else the machine does hits both.
    let (mut bare_exec, mut bare_end, mut kit_exec, mut kit_end) = (vec![], vec![], vec![], vec![]);
    let mut fork_exec = vec![];
    for _ in 0..5 {
        fork_exec.extend(bare_spawns(runs / 5, bare_fork).0);
        let (exec, end) = bare_spawns(runs / 5, bare);
        bare_exec.extend(exec);
        bare_end.extend(end);
        let (exec, end) = kit(&mut server, runs / 5).await;
        kit_exec.extend(exec);
        kit_end.extend(end);
    }
    let start = Instant::now();
    bare_spawns(runs, bare);
    let bare_rate = rate(runs, start);
    let kit_rate = throughput(&mut server, runs, 32).await;
    let mut figures: Vec<(String, f64)> = Vec::new();
    for (name, values) in [
        ("bare_exec", &mut bare_exec),
        ("bare_fork_exec", &mut fork_exec),
        ("kit_exec", &mut kit_exec),
        ("bare_end", &mut bare_end),
        ("kit_end", &mut kit_end),
    ] {
        for percent in [50, 95, 99] {
            figures.push((format!("{name}_p{percent}_us"), ratio(percentile(values, percent), 1)));
        }
    }
    figures.push((
        "exec_p50_ratio_none".into(),
        ratio(percentile(&mut kit_exec, 50), percentile(&mut bare_exec, 50)),
    ));
    figures
        .push(("end_p50_ratio".into(), ratio(percentile(&mut kit_end, 50), percentile(&mut bare_end, 50))));
    figures.push(("bare_per_second".into(), bare_rate));
    figures.push(("kit_per_second".into(), kit_rate));
    figures.push(("throughput_ratio_none".into(), kit_rate / bare_rate));
    figures.push(("server_resident_mib".into(), ratio(common::resident(server.pid()), 1 << 20)));
    let lines: Vec<_> = figures.iter().map(|(name, value)| format!("  \"{name}\": {value:.2}")).collect();
    println!("{{\n{}\n}}", lines.join(",\n"));
}
