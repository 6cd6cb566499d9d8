//! Rules come out as the place and the mode ask.

use super::*;

/// Every path that there is.
struct Paths(&'static [&'static str]);

impl Tree for Paths {
    fn names(&self, folder: &Path) -> Vec<String> {
        let mut names: Vec<String> = self
            .0
            .iter()
            .filter_map(|path| Path::new(path).strip_prefix(folder).ok()?.components().next())
            .map(|name| name.as_os_str().to_string_lossy().into_owned())
            .collect();
        names.dedup();
        names
    }
}

const TREE: Paths = Paths(&[
    "/data/models",
    "/data/scratch",
    "/dev/dri/card0",
    "/dev/dri/card1",
    "/dev/full",
    "/dev/kvm",
    "/dev/null",
    "/dev/nvidia0",
    "/dev/nvidia-uvm",
    "/dev/nvidiactl",
    "/proc/self",
    "/run/kruntimes/token",
    "/run/lock",
    "/tmp/x",
    "/usr/bin",
    "/workspace/a",
]);

fn places() -> Places {
    Places {
        work: "/workspace".into(),
        socket: Some("/run/kruntimes".into()),
        shared: vec!["/data/models".into()],
        leasable: vec!["/dev/nvidia0".into(), "/dev/dri/card0".into(), "/data/scratch".into()],
    }
}

fn grant(rules: &[(PathBuf, Grant)], path: &str) -> Option<Grant> {
    rules.iter().find(|(rule, _)| rule == Path::new(path)).map(|(_, grant)| *grant)
}

const LANDLOCK_ALONE: Mode = Mode { files: true, private: false, devices: true, ids: false };

#[test]
fn the_image_is_read_only_and_what_is_the_kits_or_anothers_has_no_rule() {
    let rules = places().rules(LANDLOCK_ALONE, &TREE);
    assert_eq!(grant(&rules, "/usr"), Some(Grant::Read));
    assert_eq!(grant(&rules, "/run/lock"), Some(Grant::Read));
    assert_eq!(grant(&rules, "/data/models"), Some(Grant::Write));
    for path in ["/", "/run", "/run/kruntimes", "/workspace", "/workspace/a", "/tmp", "/data"] {
        assert_eq!(grant(&rules, path), None, "{path}");
    }
}

#[test]
fn shared_memory_is_for_runs_whose_part_of_it_can_be_told() {
    let granted = |mode| grant(&places().rules(mode, &TREE), "/dev/shm");
    assert_eq!(granted(LANDLOCK_ALONE), None);
    assert_eq!(granted(Mode { ids: true, ..LANDLOCK_ALONE }), Some(Grant::Write));
    assert_eq!(granted(Mode { private: true, ..LANDLOCK_ALONE }), Some(Grant::Write));
    let given = Places { shared: vec!["/dev/shm".into()], ..places() };
    assert_eq!(grant(&given.rules(LANDLOCK_ALONE, &TREE), "/dev/shm"), Some(Grant::Write));
}

#[test]
fn devices_are_the_plain_ones_and_accelerators() {
    let rules = places().rules(LANDLOCK_ALONE, &TREE);
    for device in ["null", "full", "nvidiactl", "nvidia-uvm", "dri/card1"] {
        assert_eq!(grant(&rules, &format!("/dev/{device}")), Some(Grant::Device), "{device}");
    }
    for closed in ["/dev/kvm", "/dev/nvidia0", "/dev/dri", "/dev/dri/card0", "/data/scratch"] {
        assert_eq!(grant(&rules, closed), None, "{closed}");
    }
    assert_eq!(grant(&rules, "/dev"), Some(Grant::List));
    let open = places().rules(Mode { devices: false, ..LANDLOCK_ALONE }, &TREE);
    assert_eq!(grant(&open, "/dev"), Some(Grant::Device));
    assert_eq!(places().open_accelerators(&TREE), ["dri/card1", "nvidia-uvm", "nvidiactl"]);
    let none = Places { leasable: Vec::new(), ..places() };
    assert_eq!(none.open_accelerators(&TREE), ["dri", "nvidia-uvm", "nvidia0", "nvidiactl"]);
    assert!(is_accelerator("dri") && is_accelerator("accel0") && !is_accelerator("driver"));
}

#[test]
fn without_a_fence_of_files_only_devices_are_closed() {
    let rules = places().rules(Mode { files: false, ..LANDLOCK_ALONE }, &TREE);
    assert_eq!(grant(&rules, "/workspace"), Some(Grant::Write));
    assert_eq!(grant(&rules, "/run"), Some(Grant::Write));
    assert_eq!((grant(&rules, "/"), grant(&rules, "/dev/kvm")), (None, None));
}

#[test]
fn with_private_mounts_tmp_is_the_runs_and_all_may_be_listed() {
    let rules = places().rules(Mode { private: true, ..LANDLOCK_ALONE }, &TREE);
    assert_eq!(grant(&rules, "/"), Some(Grant::List));
    assert_eq!(grant(&rules, "/tmp"), Some(Grant::Write));
}

#[test]
fn a_folder_of_its_own_is_the_first_below_the_work_folder() {
    let own = |path: &str| places().own_folder(Path::new(path));
    assert_eq!(own("/workspace/a/repo"), Some("/workspace/a".into()));
    assert_eq!(own("/workspace/a"), Some("/workspace/a".into()));
    for path in ["/workspace", "/workspace/", "/elsewhere/a", "/", "/workspace/../etc", "/workspacex/a"] {
        assert_eq!(own(path), None, "{path}");
    }
}
