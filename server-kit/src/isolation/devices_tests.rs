//! What is written on a temporary tree, and the program by an interpreter of the few instructions that it has.

use super::*;

fn device(block: bool, major: u32, minor: Option<u32>) -> Device {
    Device { block, major, minor }
}

/// What a program answers to an access. As the kernel's interpreter, for these instructions only.
fn answer(code: &[Instruction], access: u32, block: bool, major: u32, minor: u32) -> u64 {
    let kind = if block { BLOCK } else { CHARACTER };
    let context = [access << 16 | kind.cast_unsigned(), major, minor];
    let mut registers = [0u64; 6];
    let mut at = 0usize;
    loop {
        let Instruction { code, registers: pair, offset, value } = code[at];
        let (to, from) = (usize::from(pair & 0xf), usize::from(pair >> 4));
        let value = u64::from(value.cast_unsigned());
        at += 1;
        match code {
            0x61 => registers[to] = u64::from(context[usize::try_from(offset / 4).expect("in it")]),
            0xbf => registers[to] = registers[from],
            0x57 => registers[to] &= value,
            0x77 => registers[to] >>= value,
            0xb7 => registers[to] = value,
            0x55 if registers[to] != value => at += usize::try_from(offset).expect("forward"),
            0x55 => {}
            0x95 => return registers[0],
            other => panic!("{other:#x} is none of ours"),
        }
    }
}

const READ: u32 = 2;
const WRITE: u32 = 4;

#[test]
fn the_program_lets_through_what_is_named_and_nothing_else() {
    let code = program(&[device(false, 1, Some(3)), TERMINALS, device(true, 7, Some(0))]);
    for access in [READ, WRITE, READ | WRITE] {
        assert_eq!(answer(&code, access, false, 1, 3), 1);
        assert_eq!(answer(&code, access, false, 136, 77), 1, "every terminal");
        assert_eq!(answer(&code, access, true, 7, 0), 1);
        for (block, major, minor) in
            [(false, 1, 5), (true, 1, 3), (false, 7, 0), (true, 7, 1), (true, 136, 0), (false, 5, 1)]
        {
            assert_eq!(answer(&code, access, block, major, minor), 0, "{block} {major}:{minor}");
        }
    }
    assert_eq!(answer(&code, 1 | READ, false, 1, 3), 0, "nothing is made");
    assert_eq!(answer(&program(&[]), READ, false, 1, 3), 0);
}

#[test]
fn version_1_denies_all_and_then_allows_one_by_one() {
    let root = tempfile::tempdir().expect("tempdir");
    restrict(root.path(), &[device(false, 1, Some(3))]).expect("written");
    let read = |name: &str| fs::read_to_string(root.path().join(name)).expect(name);
    assert_eq!((read("devices.deny"), read("devices.allow")), ("a".into(), "c 1:3 rw".into()));
    assert_eq!(TERMINALS.line(), "c 136:* rw");
    let (path, _) = restrict(Path::new("/nonexistent"), &[]).expect_err("not there");
    assert!(path.ends_with("devices.deny"));
}

/// The kernel's own answer, in a group of this test's.
#[test]
fn a_group_of_version_1_lets_through_what_is_named() {
    let hierarchy = Path::new("/sys/fs/cgroup/devices");
    if !hierarchy.join("devices.allow").exists() && !hierarchy.join("tasks").exists() {
        println!("skipped: no devices hierarchy of version 1 is mounted here");
        return;
    }
    let group = hierarchy.join(format!("kruntimes-test-{}", std::process::id()));
    if let Err(error) = fs::create_dir(&group) {
        println!("skipped: no group can be made in the devices hierarchy of version 1: {error}");
        return;
    }
    let restricted = restrict(&group, &[device(false, 1, Some(3))]);
    let script =
        "echo 0 > $0/tasks; for name in null zero; do (: < /dev/$name) 2>/dev/null && echo $name; done; true";
    let output = std::process::Command::new("sh").args(["-c", script]).arg(&group).output();
    fs::remove_dir(&group).expect("empty");
    restricted.expect("restricted");
    let output = output.expect("runs");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "null\n", "{output:?}");
}

/// The same of version 2, and that nothing is made, which this test as root otherwise may.
#[test]
fn a_group_of_version_2_lets_through_what_is_named() {
    let mounts = fs::read_to_string("/proc/mounts").expect("mounts");
    let mount = mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2"));
    let Some(mount) = mount.and_then(|line| line.split(' ').nth(1)) else {
        println!("skipped: no cgroup v2 tree is mounted here");
        return;
    };
    let group = Path::new(mount).join(format!("kruntimes-test-{}", std::process::id()));
    if let Err(error) = fs::create_dir(&group) {
        println!("skipped: no group can be made in the cgroup v2 tree: {error}");
        return;
    }
    let tries = || {
        let script = "echo 0 > $0/cgroup.procs; cd $1; for name in null zero; do (: < /dev/$name) 2>/dev/null && echo $name; done; \
                      mknod node c 1 3 2>/dev/null && rm node && echo mknod; true";
        let folder = tempfile::tempdir().expect("tempdir");
        let mut command = std::process::Command::new("sh");
        let output = command.args(["-c", script]).arg(&group).arg(folder.path()).output().expect("runs");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let before = tries();
    let attached = load(&program(&[device(false, 1, Some(3))]))
        .and_then(|program| attach(fs::File::open(&group)?.as_fd(), program.as_fd()));
    let after = tries();
    fs::remove_dir(&group).expect("empty");
    attached.expect("attached");
    assert_eq!((before.as_str(), after.as_str()), ("null\nzero\nmknod\n", "null\n"));
}

#[test]
fn devices_of_a_lease_are_not_open_to_all() {
    let open = open_devices(Path::new("/dev"), &[PathBuf::from("/dev/zero")]);
    assert!(open.contains(&device(false, 1, Some(3))), "/dev/null: {open:?}");
    assert!(!open.contains(&device(false, 1, Some(5))), "/dev/zero: {open:?}");
    assert!(open.contains(&TERMINALS));
    assert!(!open.contains(&device(false, 1, Some(11))), "/dev/kmsg: {open:?}");
}
