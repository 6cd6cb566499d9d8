//! The leaf on a temporary tree: what is written where, and what is read.

use std::sync::mpsc::{Receiver, channel};

use kruntimes_resources::Amount;
use tempfile::TempDir;

use super::*;

pub(in super::super) fn leaf(
    root: &Path,
    version: Version,
    controllers: &[Controller],
) -> (Leaf, Receiver<Chore>) {
    let (retire, chores) = channel();
    let dir = Dir { version, controllers: controllers.to_vec(), path: root.to_owned() };
    (Leaf { dirs: vec![dir], entrance: None, retire }, chores)
}

fn root(files: &[(&str, &str)]) -> TempDir {
    let dir = tempfile::tempdir().expect("tempdir");
    for (name, text) in files {
        fs::write(dir.path().join(name), text).expect("written");
    }
    dir
}

fn read(root: &TempDir, name: &str) -> String {
    fs::read_to_string(root.path().join(name)).expect(name)
}

const ALL: [Controller; 5] =
    [Controller::Cpu, Controller::CpuAcct, Controller::Memory, Controller::Pids, Controller::Io];

fn bounds() -> Bounds {
    Bounds {
        cpu: Some(Amount::milli(1500)),
        cpu_shares: Some(1024),
        memory: Some(64 << 20),
        pids: Some(9),
        ..Bounds::default()
    }
}

#[test]
fn bounds_are_written_as_each_version_wants_them() {
    let v2 = root(&[]);
    leaf(v2.path(), Version::V2, &ALL).0.bound(&bounds()).expect("bounded");
    assert_eq!((read(&v2, "memory.max"), read(&v2, "pids.max")), ("67108864".into(), "9".into()));
    assert_eq!((read(&v2, "cpu.max"), read(&v2, "cpu.weight")), ("150000 100000".into(), "39".into()));
    let v1 = root(&[("memory.memsw.limit_in_bytes", "")]);
    leaf(v1.path(), Version::V1, &ALL).0.bound(&bounds()).expect("bounded");
    assert_eq!(read(&v1, "memory.limit_in_bytes"), "67108864");
    assert_eq!(read(&v1, "memory.memsw.limit_in_bytes"), "67108864");
    assert_eq!(
        (read(&v1, "cpu.cfs_quota_us"), read(&v1, "cpu.cfs_period_us")),
        ("150000".into(), "100000".into())
    );
    assert_eq!((read(&v1, "cpu.shares"), read(&v1, "pids.max")), ("1024".into(), "9".into()));
}

#[test]
fn a_bound_that_is_not_kept_is_an_error_that_names_its_file() {
    let root = root(&[]);
    std::os::unix::fs::symlink("/dev/null", root.path().join("pids.max")).expect("link");
    let (path, error) = leaf(root.path(), Version::V1, &ALL).0.bound(&bounds()).expect_err("not kept");
    assert!(path.ends_with("pids.max"), "{}", path.display());
    assert!(error.to_string().contains("instead of 9"), "{error}");
}

#[test]
fn only_what_has_a_controller_is_touched() {
    let root = root(&[]);
    let (leaf, _chores) = leaf(root.path(), Version::V2, &[]);
    leaf.bound(&bounds()).expect("nothing to do");
    assert_eq!(fs::read_dir(root.path()).expect("read").count(), 0);
    assert_eq!(leaf.counters(), GroupCounters::default());
}

#[test]
fn counters_of_version_2() {
    let root = root(&[
        (
            "cpu.stat",
            "usage_usec 9\nuser_usec 5\nsystem_usec 4\nnr_periods 8\nnr_throttled 3\nthrottled_usec 77\n",
        ),
        ("memory.peak", "4096\n"),
        ("memory.events", "low 0\nhigh 0\nmax 4\noom 2\noom_kill 3\noom_group_kill 1\n"),
        (
            "io.stat",
            "9999:0 rbytes=10 wbytes=20 rios=1 wios=1\n9999:1 rbytes=1 wbytes=2 rios=0 wios=0\n9999:2 \n",
        ),
        ("pids.peak", "6\n"),
        ("pids.events", "max 11\n"),
        ("pids.max", "6\n"),
        ("cgroup.events", "populated 1\nfrozen 0\n"),
    ]);
    let (leaf, _chores) = leaf(root.path(), Version::V2, &ALL);
    let expected = GroupCounters {
        user: Some(5),
        system: Some(4),
        throttled_periods: Some(3),
        throttled: Some(77),
        memory_peak: Some(4096),
        oom_kills: Some(3),
        oom_own: Some(true),
        read: Some(11),
        written: Some(22),
        pids_peak: Some(6),
        pids_refused: Some(11),
        pids_own: Some(true),
    };
    assert_eq!(leaf.counters(), expected);
    assert!(!leaf.is_empty());
    fs::write(root.path().join("cgroup.events"), "populated 0\nfrozen 0\n").expect("written");
    assert!(leaf.is_empty());
}

#[test]
fn counters_of_version_1() {
    let root = root(&[
        ("cpuacct.usage_user", "5000\n"),
        ("cpuacct.usage_sys", "4999\n"),
        ("cpu.stat", "nr_periods 8\nnr_throttled 3\nthrottled_time 77000\n"),
        ("memory.max_usage_in_bytes", "4096\n"),
        ("memory.limit_in_bytes", "8192\n"),
        ("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n"),
        ("pids.peak", "6\n"),
        ("pids.events", "max 0\n"),
        ("cgroup.procs", ""),
    ]);
    let (leaf, _chores) = leaf(root.path(), Version::V1, &ALL[..4]);
    let counters = leaf.counters();
    assert_eq!((counters.user, counters.system, counters.throttled), (Some(5), Some(4), Some(77)));
    assert_eq!(
        (counters.memory_peak, counters.oom_kills, counters.oom_own),
        (Some(4096), Some(1), Some(false))
    );
    assert_eq!((counters.pids_peak, counters.pids_refused), (Some(6), Some(0)));
    assert!(leaf.is_empty());
}

/// Refused by a limit above it; and as far as that is known where the kernel keeps no peak.
#[test]
fn forks_that_another_limit_refused_are_not_its_own() {
    let own = |files: &[(&str, &str)]| {
        let root = root(&[files, &[("pids.events", "max 3\n")]].concat());
        leaf(root.path(), Version::V2, &ALL).0.events().pids_own
    };
    assert_eq!(own(&[("pids.peak", "2\n"), ("pids.current", "2\n"), ("pids.max", "20\n")]), Some(false));
    assert_eq!(own(&[("pids.peak", "20\n"), ("pids.current", "2\n"), ("pids.max", "20\n")]), Some(true));
    assert_eq!(own(&[("pids.current", "20\n"), ("pids.max", "20\n")]), Some(true));
    assert_eq!(own(&[("pids.current", "2\n"), ("pids.max", "20\n")]), Some(false));
    assert_eq!(own(&[("pids.current", "2\n"), ("pids.max", "max\n")]), None);
}

#[test]
fn a_dropped_leaf_is_handed_to_who_removes_it() {
    let root = root(&[]);
    let (leaf, chores) = leaf(root.path(), Version::V2, &ALL);
    drop(leaf);
    let chore = chores.try_recv().expect("a chore");
    assert!(matches!(&chore, Chore::Remove(dirs) if dirs[0].path == root.path()), "{chore:?}");
}
