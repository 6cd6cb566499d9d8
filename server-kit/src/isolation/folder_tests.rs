//! Folders change hands; those that need another uid say so where the test is not root.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

use super::*;

const ID: u32 = 61_234;

fn root() -> bool {
    let may = super::super::capabilities::has(super::super::capabilities::CHOWN);
    if !may {
        println!("skipped: files can be given away by who has CAP_CHOWN only");
    }
    may
}

fn owner(path: &Path) -> (u32, u32) {
    let metadata = std::fs::symlink_metadata(path).expect("metadata");
    (metadata.uid(), metadata.gid())
}

#[test]
fn a_folder_goes_and_comes_back_and_nothing_outside_is_touched() {
    if !root() {
        return;
    }
    let dir = tempfile::tempdir().expect("tempdir");
    let (folder, outside) = (dir.path().join("run"), dir.path().join("outside"));
    std::fs::create_dir_all(folder.join("a/b")).expect("folders");
    std::fs::write(folder.join("a/b/file"), "x").expect("file");
    std::fs::write(&outside, "x").expect("file");
    symlink(&outside, folder.join("link")).expect("link");
    symlink("..", folder.join("up")).expect("link");
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o2770)).expect("mode");
    // More than are looked at in one go.
    let many: Vec<String> = (0..1000).map(|number| format!("a/{number}")).collect();
    for name in &many {
        std::fs::write(folder.join(name), "").expect("file");
    }
    let before = owner(&folder);

    let was = super::owner(&folder).expect("owner");
    give(&folder, ID).expect("gives");
    assert_eq!((was.uid, was.gid, was.mode), (before.0, before.1, Some(0o2770)));
    let all = [".", "a", "a/b", "a/b/file", "link", "up"];
    for path in all.into_iter().chain(many.iter().map(String::as_str)) {
        assert_eq!(owner(&folder.join(path)), (ID, ID), "{path}");
    }
    assert_eq!(std::fs::metadata(&folder).expect("metadata").mode() & 0o7777, 0o700);

    // The Run's work: a folder closed even to itself, and a hard link to what is not its own.
    std::fs::create_dir(folder.join("closed")).expect("folder");
    std::os::unix::fs::chown(folder.join("closed"), Some(ID), Some(ID)).expect("chown");
    std::fs::set_permissions(folder.join("closed"), std::fs::Permissions::from_mode(0o000)).expect("mode");
    std::os::unix::fs::chown(&outside, Some(ID + 1), Some(ID + 1)).expect("chown");
    std::fs::hard_link(&outside, folder.join("hard")).expect("link");

    take_back(&folder, ID, was).expect("takes back");
    for path in all.into_iter().chain(["closed"]).chain(many.iter().map(String::as_str)) {
        assert_eq!(owner(&folder.join(path)), before, "{path}");
    }
    assert_eq!(owner(&outside), (ID + 1, ID + 1));
    assert_eq!(std::fs::metadata(&folder).expect("metadata").mode() & 0o7777, 0o2770);
    assert_eq!(std::fs::metadata(folder.join("closed")).expect("metadata").mode() & 0o700, 0o700);
}

#[test]
fn a_device_comes_back_as_it_was() {
    if !root() {
        return;
    }
    let dir = tempfile::tempdir().expect("tempdir");
    let device = dir.path().join("device");
    std::fs::write(&device, "").expect("file");
    std::fs::set_permissions(&device, std::fs::Permissions::from_mode(0o660)).expect("mode");
    let was = super::owner(&device).expect("owner");
    lend(&device, ID).expect("lends");
    std::fs::set_permissions(&device, std::fs::Permissions::from_mode(0o666)).expect("the Run's own");
    reclaim(&device, ID, was).expect("takes back");
    assert_eq!(super::owner(&device).expect("owner"), was);
    // After a crash nobody knows any more.
    lend(&device, ID).expect("lends");
    reclaim(&device, ID, Owner { mode: None, ..was }).expect("takes back");
    assert_eq!(super::owner(&device).expect("owner"), was);
}

#[test]
fn a_tree_of_any_depth_comes_back() {
    if !root() {
        return;
    }
    let dir = tempfile::tempdir().expect("tempdir");
    let folder = dir.path().join("run");
    std::fs::create_dir(&folder).expect("folder");
    let mut here = rustix::fs::open(&folder, FOLDER, Mode::empty()).expect("open");
    // Deeper than a path can be long, and than there are descriptors.
    for _ in 0..3000 {
        rustix::fs::mkdirat(&here, c"d", Mode::RWXU).expect("mkdir");
        here = rustix::fs::openat(&here, c"d", FOLDER, Mode::empty()).expect("open");
    }
    let was = super::owner(&folder).expect("owner");
    give(&folder, ID).expect("gives");
    assert_eq!(rustix::fs::fstat(&here).expect("stat").st_uid, ID);
    take_back(&folder, ID, was).expect("takes back");
    assert_eq!(rustix::fs::fstat(&here).expect("stat").st_uid, was.uid);
    // Too deep for a removal by paths.
    let status = std::process::Command::new("rm").arg("-rf").arg(&folder).status();
    assert!(status.expect("rm runs").success());
}

#[test]
fn after_a_crash_folders_of_the_range_come_back_and_others_stay() {
    if !root() {
        return;
    }
    let dir = tempfile::tempdir().expect("tempdir");
    let range = IdRange { first: ID, last: ID + 1 };
    for (name, id) in [("a", ID), ("b", ID + 1), ("c", ID + 2)] {
        std::fs::create_dir(dir.path().join(name)).expect("folder");
        std::fs::write(dir.path().join(name).join("file"), "").expect("file");
        for path in [name.to_owned(), format!("{name}/file")] {
            std::os::unix::fs::chown(dir.path().join(path), Some(id), Some(id)).expect("chown");
        }
    }
    assert_eq!(sweep(dir.path(), range).expect("sweeps"), 2);
    let work = owner(dir.path());
    for (path, expected) in [("a", work), ("a/file", work), ("b", work), ("c", (ID + 2, ID + 2))] {
        assert_eq!(owner(&dir.path().join(path)), expected, "{path}");
    }
    assert_eq!(sweep(dir.path(), range).expect("sweeps again"), 0);
}

#[test]
fn what_an_id_left_in_a_shared_folder_goes_and_nothing_else() {
    if !root() {
        return;
    }
    let dir = tempfile::tempdir().expect("tempdir");
    for (name, id) in [("mine", ID), ("other", ID + 1)] {
        std::fs::write(dir.path().join(name), "").expect("file");
        std::os::unix::fs::chown(dir.path().join(name), Some(id), Some(id)).expect("chown");
    }
    remove_left(dir.path(), |uid| uid == ID).expect("removes");
    assert!(!dir.path().join("mine").exists());
    assert!(dir.path().join("other").exists());
}
