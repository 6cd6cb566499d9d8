//! A machine is started, does what it is there for, and ends. Its own programs are those of this system.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails where it cannot go on")]

use std::io::{BufRead as _, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use kruntimes_vm::{Job, Machine, Outcome};

fn machine() -> Machine {
    Machine {
        processors: 2,
        memory_mib: 512,
        disk_mib: 512,
        limit: Duration::from_secs(120),
        init: PathBuf::from(env!("CARGO_BIN_EXE_vm")),
        with: Vec::new(),
    }
}

fn bash(script: &str) -> Job {
    Job { program: "/bin/bash".into(), arguments: vec!["-c".into(), script.into()], ..Job::default() }
}

#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<u8>>>);

impl Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Kept {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

/// The outcome with the output and the errors; `None` where no machine can be started.
fn run(machine: &Machine, job: &Job) -> Option<(Outcome, String, String)> {
    let (output, errors) = (Kept::default(), Kept::default());
    let outcome = machine.run(job, output.clone(), errors.clone()).unwrap();
    if let Outcome::Unavailable(unavailable) = &outcome {
        println!("skipped: {}", unavailable.0);
        return None;
    }
    Some((outcome, output.text(), errors.text()))
}

#[test]
fn what_a_program_gets_and_gives_passes_through() {
    // Not below /tmp, which is empty inside.
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let taken = folder.path().join("taken");
    std::fs::write(&taken, "from outside\n").unwrap();
    let machine = Machine { with: vec![taken.clone()], ..machine() };
    let mut job = bash(r#"cat "$1"; echo "$WORD $2"; printf 'a\nb' >&2; kill -9 $$"#);
    job.arguments.extend(["name".to_owned(), taken.display().to_string(), "two words".to_owned()]);
    job.environment.insert("WORD".into(), "one".into());
    let ran = run(&machine, &job);
    let Some((outcome, output, errors)) = ran else { return };
    assert_eq!(
        (outcome, output.as_str(), errors.as_str()),
        (Outcome::Ended(137), "from outside\none two words\n", "a\nb")
    );
}

#[test]
fn every_controller_of_cgroup_v2_bounds_a_group() {
    let script = r#"
set -eu
cd /sys/fs/cgroup
mkdir a
for controller in cpu io memory pids; do grep -qw $controller a/cgroup.controllers; done
echo 33554432 >a/memory.max; echo 1 >a/memory.oom.group
bash -c 'echo $$ >a/cgroup.procs; exec dd if=/dev/zero of=/dev/null bs=128M count=1' 2>/dev/null && echo survived || echo "hog ended with $?"
grep -w oom_group_kill a/memory.events
mkdir b; echo 3 >b/pids.max
bash -c 'echo $$ >b/cgroup.procs; for n in 1 2 3 4; do sleep 60 & done' 2>/dev/null || echo "bomb ended"
echo 1 >b/cgroup.kill
until grep -q "populated 0" b/cgroup.events; do :; done
rmdir a b
unshare --pid --net --ipc --mount --fork true && echo namespaces
"#;
    let Some((outcome, output, errors)) = run(&machine(), &bash(script)) else { return };
    assert_eq!(outcome, Outcome::Ended(0), "{output}{errors}");
    assert_eq!(output, "hog ended with 137\noom_group_kill 1\nbomb ended\nnamespaces\n", "{errors}");
}

#[test]
fn a_program_that_does_not_end_is_ended_and_told_apart() {
    let machine = Machine { limit: Duration::from_secs(8), ..machine() };
    let Some((outcome, ..)) = run(&machine, &bash("sleep 1000")) else { return };
    assert!(matches!(outcome, Outcome::OutOfTime(_)), "{outcome:?}");
}

#[test]
fn a_machine_that_ends_by_itself_is_told_with_what_its_kernel_said() {
    let script = "cd /proc/sys/kernel && cat watchdog_thresh softlockup_panic && echo c >/proc/sysrq-trigger";
    let Some((outcome, output, _)) = run(&machine(), &bash(script)) else { return };
    let Outcome::Lost(said) = &outcome else { panic!("{outcome:?}") };
    assert!(said.contains("Kernel panic - not syncing: sysrq triggered crash"), "{said}");
    assert_eq!(output, "60\n1\n");
}

#[test]
fn a_program_that_cannot_start_is_an_error_with_its_name() {
    let with = Machine { with: vec!["/no/such/file".into()], ..machine() };
    match with.run(&bash("true"), std::io::sink(), std::io::sink()) {
        Ok(Outcome::Unavailable(unavailable)) => println!("skipped: {}", unavailable.0),
        other => assert!(format!("{:#}", other.unwrap_err()).contains("/no/such/file")),
    }
}

#[test]
fn a_machine_ends_with_an_owner_that_is_killed() {
    let mut owner = Command::new(env!("CARGO_BIN_EXE_vm"))
        .args(["run", "--memory", "256", "--", "bash", "-c", "echo up; sleep 1000"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(owner.stdout.take().unwrap()).read_line(&mut line).unwrap();
    if line.starts_with("skipped: ") {
        println!("{line}");
        owner.wait().unwrap();
        return;
    }
    assert_eq!(line, "up\n");
    let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", owner.id())).unwrap();
    let machine: Vec<_> = children.split_whitespace().map(|pid| PathBuf::from("/proc").join(pid)).collect();
    assert_eq!(machine.len(), 1, "{children}");
    owner.kill().unwrap();
    owner.wait().unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while is_running(&machine[0]) {
        assert!(Instant::now() < deadline, "{} is left", machine[0].display());
        std::thread::yield_now();
    }
}

fn is_running(process: &Path) -> bool {
    std::fs::read_to_string(process.join("stat")).is_ok_and(|stat| !stat.contains(") Z "))
}
