//! The bill against what was done: loads of a known size, and the figures that the record gives for them. A figure is
//! held to what its source claims; what a place cannot know must be marked so.
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panic")]

mod common;

use std::collections::BTreeMap;

use common::place::{Placed, Rights};
use common::*;
use kruntimes_proto::v1::{Figure, StatusResponse, StopCause};

/// Shares of a figure that it may be off.
const CPU: f64 = 0.01;
const IO: f64 = 0.01;
const ROUNDS: u32 = 12;
/// No bill may be further off, whatever else the machine does.
const NOISE: f64 = 0.25;
const MIB: u64 = 1 << 20;
const BYTES: &[&str] = &["io_read_bytes", "io_write_bytes", "block_read_bytes", "block_write_bytes"];

struct Bill {
    figures: BTreeMap<String, Figure>,
    incomplete: bool,
    /// What the load says that it did; of memory also the kernel's mark for it, and for its group (0 when it cannot see that).
    own: Vec<f64>,
}

impl Bill {
    fn of(status: &StatusResponse) -> Self {
        let usage = status.usage.clone().expect("a record");
        let figures = usage.figures.into_iter().map(|figure| (figure.name.clone(), figure)).collect();
        let own: Result<_, _> = status.stdout.split_whitespace().map(str::parse).collect();
        let own = own.unwrap_or_else(|_| panic!("{status:?}"));
        Self { figures, incomplete: usage.incomplete, own }
    }

    fn get(&self, name: &str) -> &Figure {
        self.figures.get(name).unwrap_or_else(|| panic!("no {name} in {:?}", self.figures.keys()))
    }

    fn processor_seconds(&self) -> f64 {
        self.value("cpu_user_seconds") + self.value("cpu_system_seconds")
    }

    fn value(&self, name: &str) -> f64 {
        self.get(name).value
    }
}

async fn run(placed: &mut Placed, id: &str, words: &[&str]) -> Bill {
    let program = placed.program("load");
    let mut request = job(id, &[&[program.as_str()], words].concat());
    request.working_dir = placed.work(id);
    placed.server.execute(request).await.expect("accepted");
    let status = placed.server.end(id).await;
    assert_eq!((status.stop_cause(), status.exit_code), (StopCause::Exited, 0), "{status:?}");
    placed.server.forget(id).await.expect("forgets");
    Bill::of(&status)
}

/// Prints one line of the table and gives the share by which the figure is off.
fn line(placed: &Placed, bill: &Bill, name: &str, value: f64, expected: f64) -> f64 {
    let off = (value - expected) / expected;
    let source = &bill.get(name).source;
    let limits = placed.mechanism("limits");
    println!(
        "accuracy: {name} by {source} (limits {limits}): {value} for {expected}, off by {:.3} %",
        off * 100.0
    );
    off
}

fn is_group(figure: &Figure) -> bool {
    figure.source.contains("cgroup")
}

async fn the_bill_is_true(rights: Rights) {
    let Some(mut placed) = Placed::start(rights, &[], &[]).await else { return };

    // Processor seconds, a child's among them: known by every source. What interrupts the program between its last look at
    // the clock and its end is on the bill and not in its own count, on an emulated machine also what its host takes away for others:
    // of some Runs one must be without.
    let mut best = f64::INFINITY;
    for round in 0..ROUNDS {
        let bill = run(&mut placed, &format!("cpu-{round}"), &["cpu", "1500000"]).await;
        assert!(!bill.incomplete);
        let off = line(&placed, &bill, "cpu_user_seconds", bill.processor_seconds(), bill.own[0] / 1e6);
        assert!(off > -CPU, "less than the program itself saw: {off}");
        assert!(off < NOISE, "far more than the program itself saw: {off}");
        best = best.min(off);
        if best < CPU {
            break;
        }
    }
    assert!(best < CPU, "off by {best}");

    // A Run of some milliseconds has a true record too.
    let bill = run(&mut placed, "short", &["spin", "5000"]).await;
    let (told, own) = (bill.processor_seconds(), bill.own[0] / 1e6);
    assert!((own * (1.0 - CPU)..own * 2.0 + 0.05).contains(&told), "{told} s for {own} s");

    // Peak memory: the kernel's own mark, of the group or of the largest process.
    let bill = run(&mut placed, "memory", &["memory", &(48 * MIB).to_string()]).await;
    let told = bill.value("memory_peak_bytes");
    let mark = if is_group(bill.get("memory_peak_bytes")) { bill.own[2] } else { bill.own[1] };
    line(&placed, &bill, "memory_peak_bytes", told, mark);
    assert!((told - mark).abs() < 0.5, "{told} for a mark of {mark}");
    assert!(told >= bill.own[0], "{told} for {} touched", bill.own[0]);

    // Bytes past the page cache.
    let bill = run(&mut placed, "io", &["io", &(8 * MIB).to_string()]).await;
    let mut exact = 0;
    for figure in bill.figures.values().filter(|figure| BYTES.contains(&figure.name.as_str())) {
        let off = line(&placed, &bill, &figure.name, figure.value, bill.own[0]);
        assert!(off.abs() < IO, "{} off by {off}", figure.name);
        exact += 1;
    }
    assert!(exact >= 2, "bytes read and written: {:?}", bill.figures.keys());

    // Bytes through it: where the source counts what is made, all of them, whatever becomes of them; else what reaches a disk.
    let bill = run(&mut placed, "synced", &["synced", &(8 * MIB).to_string()]).await;
    let off = line(&placed, &bill, "block_write_bytes", bill.value("block_write_bytes"), bill.own[0]);
    assert!(off.abs() < IO, "synced, off by {off}");
    let bill = run(&mut placed, "removed", &["removed", &(8 * MIB).to_string()]).await;
    let off = line(&placed, &bill, "block_write_bytes", bill.value("block_write_bytes"), bill.own[0]);
    match bill.get("block_write_bytes").source.as_str() {
        "rusage-dirtied" => assert!(off.abs() < IO, "removed, off by {off}"),
        source => assert!(off < -0.5, "{source} counts what never reached a disk: off by {off}"),
    }
    placed.end().await;
}

fn number(text: &str) -> f64 {
    text.trim().parse().expect("a number")
}

/// Of a group of version 2.
fn group_seconds(stat: &str) -> f64 {
    number(stat.lines().find_map(|line| line.strip_prefix("usage_usec ")).expect("a line")) / 1e6
}

/// Seconds of processor time that the Pod's own counter has.
fn pod_seconds(placed: &Placed) -> Option<f64> {
    match placed.pod_file("cpu.stat", "usage_usec") {
        Some(stat) => Some(group_seconds(&stat)),
        None => placed.pod_file("cpuacct.usage", "").map(|text| number(&text) / 1e9),
    }
}

/// Seconds that a process used by its own record, and those of all that it reaped (proc(5)).
fn process_seconds(pid: i32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("stat");
    let fields: Vec<&str> = stat[stat.rfind(')').expect("a name") + 2..].split(' ').collect();
    let ticks: u32 = (14..=17).map(|field| fields[field - 3].parse::<u32>().expect("a number")).sum();
    f64::from(ticks) / 100.0
}

/// Bytes from and to disks that the Pod's own counter has.
fn pod_bytes(placed: &Placed) -> Option<f64> {
    let text = placed.pod_file("io.stat", "")?;
    let words = text.split_whitespace();
    let values = words.filter_map(|word| word.strip_prefix("rbytes=").or(word.strip_prefix("wbytes=")));
    Some(values.map(|value| value.parse::<f64>().expect("a number")).sum())
}

#[tokio::test]
async fn runs_and_what_is_nobodys_are_all_that_the_pod_used() {
    let Some(mut placed) = Placed::start(Rights::Pod, &[], &[]).await else { return };
    let Some(before) = pod_seconds(&placed) else {
        println!("skipped: no control groups that count processor time");
        return placed.end().await;
    };
    let server = placed.server.pid();
    let nursery = children(server)[0];
    // What the kit itself used: by a group of its own, or by its processes' own record less what the Runs say of themselves.
    // The nursery has reaped the supervisors, and those the Runs.
    let own_group = placed.kit_file("cpu.stat").is_some();
    let kit = |placed: &Placed, seen: f64| match placed.kit_file("cpu.stat") {
        Some(stat) => group_seconds(&stat),
        None => process_seconds(server) + process_seconds(nursery) - seen,
    };
    let kit_before = kit(&placed, 0.0);
    let (mut billed, mut seen) = (0.0, 0.0);
    for number in 0..6 {
        let bill = run(&mut placed, &format!("part-{number}"), &["cpu", "300000"]).await;
        assert!(is_group(bill.get("cpu_user_seconds")), "{:?}", bill.figures);
        billed += bill.processor_seconds();
        seen += bill.own[0] / 1e6;
    }
    let difference = || {
        let unattributed = kit(&placed, seen) - kit_before;
        let pod = pod_seconds(&placed).expect("still there") - before;
        (pod, unattributed, (billed + unattributed - pod).abs())
    };
    // The last supervisor is reaped a moment after its Run's end is told; four are kept idle.
    eventually("the supervisors of ended Runs are reaped", || children(nursery).len() <= 4).await;
    let (pod, unattributed, off) = difference();
    println!(
        "totals: {billed:.3} s billed and {unattributed:.3} s of the kit, {pod:.3} s of the Pod, off by {off:.3} s"
    );
    // Records of processes are in hundredths of a second.
    let rough = if own_group { 0.0 } else { 0.04 };
    assert!(off <= pod * CPU + rough, "{billed} s and {unattributed} s are not {pod} s");
    assert!(billed <= pod, "{billed} s billed of {pod} s");

    let Some(before) = pod_bytes(&placed) else { return placed.end().await };
    let bill = run(&mut placed, "io", &["io", &(8 * MIB).to_string()]).await;
    let billed: f64 =
        BYTES.iter().filter_map(|name| bill.figures.get(*name)).map(|figure| figure.value).sum();
    let pod = pod_bytes(&placed).expect("still there") - before;
    println!("totals: {billed} bytes billed, {pod} of the Pod");
    if is_group(bill.get("block_write_bytes")) {
        assert!(billed <= pod && pod - billed <= pod * IO, "{billed} of {pod}");
    }
    placed.end().await;
}

#[tokio::test]
async fn the_bill_is_true_with_all_rights() {
    the_bill_is_true(Rights::All).await;
}

#[tokio::test]
async fn the_bill_is_true_in_a_restricted_place() {
    the_bill_is_true(Rights::Restricted).await;
}
