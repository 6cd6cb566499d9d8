use super::*;
use std::os::unix::fs::PermissionsExt as _;

fn workspaces() -> (tempfile::TempDir, Workspaces) {
    let dir = tempfile::tempdir().unwrap();
    let workspaces = Workspaces::open(dir.path()).unwrap();
    (dir, workspaces)
}

#[test]
fn a_workspace_is_made_empty_each_time() {
    let (dir, workspaces) = workspaces();
    let uid = RunUid::from("u-1");
    workspaces.create(&uid).unwrap().write(SCRIPT_FILE, b"echo").unwrap();
    std::fs::write(dir.path().join("u-1/outputs"), "A=1").unwrap();
    workspaces.create(&uid).unwrap().write("a/b/handler.py", b"x").unwrap();
    assert!(!dir.path().join("u-1/outputs").exists());
    assert!(!dir.path().join("u-1/script").exists());
    assert_eq!(std::fs::read(dir.path().join("u-1/a/b/handler.py")).unwrap(), b"x");
    let mode = std::fs::metadata(dir.path().join("u-1")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o770);
    workspaces.remove(&uid).unwrap();
    workspaces.remove(&uid).unwrap();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn names_and_paths_cannot_lead_out() {
    let (_dir, workspaces) = workspaces();
    for uid in ["", ".", "..", "a/b", ".hidden", "a b", &"x".repeat(129)] {
        assert!(workspaces.create(&RunUid::from(uid)).is_err(), "{uid:?}");
        assert!(workspaces.remove(&RunUid::from(uid)).is_err(), "{uid:?}");
    }
    let workspace = workspaces.create(&RunUid::from("u")).unwrap();
    for path in ["", "/etc/x", "../x", "a/../../x"] {
        let error = workspace.write(path, b"").unwrap_err().to_string();
        assert!(error.contains("inlinePath"), "{error}");
    }
}

#[test]
fn a_link_in_place_of_the_folder_is_removed_and_not_followed() {
    let (dir, workspaces) = workspaces();
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("keep"), "").unwrap();
    std::os::unix::fs::symlink(outside.path(), dir.path().join("u")).unwrap();
    workspaces.create(&RunUid::from("u")).unwrap().write(SCRIPT_FILE, b"").unwrap();
    std::os::unix::fs::symlink(outside.path(), dir.path().join("u/link")).unwrap();
    workspaces.remove(&RunUid::from("u")).unwrap();
    let left: Vec<_> =
        std::fs::read_dir(outside.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["keep"]);
}

#[test]
fn deep_locked_and_odd_trees_are_removed() {
    let (dir, workspaces) = workspaces();
    let uid = RunUid::from("u");
    workspaces.create(&uid).unwrap();
    // Deeper than a path or a stack of open folders may be.
    let mut at = std::fs::File::open(dir.path().join("u")).unwrap();
    for _ in 0..3000 {
        rustix::fs::mkdirat(&at, "deeper", Mode::RWXU).unwrap();
        at = rustix::fs::openat(&at, "deeper", OFlags::RDONLY, Mode::empty()).unwrap().into();
        rustix::fs::openat(&at, "file", OFlags::CREATE | OFlags::WRONLY, Mode::RUSR).unwrap();
    }
    let locked = dir.path().join("u/locked/inner");
    std::fs::create_dir_all(&locked).unwrap();
    std::fs::write(locked.join("f"), "").unwrap();
    nix::unistd::mkfifo(&locked.join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    std::fs::set_permissions(&locked, std::fs::Permissions::from_mode(0o000)).unwrap();
    std::fs::set_permissions(dir.path().join("u/locked"), std::fs::Permissions::from_mode(0o500)).unwrap();
    std::fs::create_dir(dir.path().join("u/.moved-0")).unwrap();
    std::fs::create_dir(dir.path().join("u/many")).unwrap();
    for number in 0..10_000 {
        std::fs::hard_link(dir.path().join("u/deeper/file"), dir.path().join(format!("u/many/{number}")))
            .unwrap();
    }
    workspaces.remove(&uid).unwrap();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn outputs_are_read_from_regular_files_only() {
    let (dir, workspaces) = workspaces();
    let uid = RunUid::from("u");
    workspaces.create(&uid).unwrap();
    assert_eq!(workspaces.read_outputs(&uid).unwrap().len(), 0);
    std::fs::write(dir.path().join("u/outputs"), "A=1").unwrap();
    assert_eq!(workspaces.read_outputs(&uid).unwrap()["A"], "1");
    std::fs::remove_file(dir.path().join("u/outputs")).unwrap();
    std::os::unix::fs::symlink("/etc/hostname", dir.path().join("u/outputs")).unwrap();
    assert!(matches!(workspaces.read_outputs(&uid), Err(OutputsError::Unreadable { .. })));
    std::fs::remove_file(dir.path().join("u/outputs")).unwrap();
    std::fs::File::create(dir.path().join("u/outputs")).unwrap().set_len(1 << 40).unwrap();
    assert!(matches!(workspaces.read_outputs(&uid), Err(OutputsError::TooLarge { .. })));
}
