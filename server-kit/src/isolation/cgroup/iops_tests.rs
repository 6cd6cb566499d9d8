//! On temporary trees: which disk, what is written, what is told.

use super::super::leaf::tests::leaf;
use super::*;

/// A sysfs in which the device of `folder` is partition 1 of disk 9:0, or nothing.
fn sysfs(folder: &Path, known: bool) -> tempfile::TempDir {
    let sys = tempfile::tempdir().expect("tempdir");
    let disk = sys.path().join("devices/disk");
    fs::create_dir_all(disk.join("part")).expect("folders");
    fs::create_dir_all(sys.path().join("dev/block")).expect("folders");
    fs::write(disk.join("dev"), "9:0\n").expect("written");
    fs::write(disk.join("part/partition"), "1\n").expect("written");
    if known {
        let dev = fs::metadata(folder).expect("metadata").dev();
        let link = sys.path().join(format!("dev/block/{}:{}", libc::major(dev), libc::minor(dev)));
        std::os::unix::fs::symlink(disk.join("part"), link).expect("link");
    }
    sys
}

#[test]
fn limits_are_for_whole_disks_and_for_those_only() {
    let folder = tempfile::tempdir().expect("tempdir");
    assert_eq!(disk_of(folder.path(), sysfs(folder.path(), true).path()), Ok("9:0".to_owned()));
    let none = disk_of(folder.path(), sysfs(folder.path(), false).path()).expect_err("no device");
    assert!(none.contains("no block device"), "{none}");
}

#[test]
fn what_a_leaf_holds_is_found_by_trying() {
    let folder = tempfile::tempdir().expect("tempdir");
    let sys = sysfs(folder.path(), true);
    let find = |root: &Path, version, controllers: &[Controller]| {
        let (leaf, _chores) = leaf(root, version, controllers);
        Iops::find(folder.path(), sys.path(), || Ok(leaf))
    };
    let (v1, v2) = (tempfile::tempdir().expect("tempdir"), tempfile::tempdir().expect("tempdir"));
    let held = find(v2.path(), Version::V2, &[Controller::Io]);
    assert_eq!(held, Iops::Held { disk: "9:0".into(), version: Version::V2 });
    let text = fs::read_to_string(v2.path().join("io.max")).expect("written");
    assert_eq!(text, "9:0 riops=1000000 wiops=1000000");
    let held = find(v1.path(), Version::V1, &[Controller::Io]);
    assert!(held.told().expect("told").contains("page cache"), "{held:?}");
    for file in ["blkio.throttle.read_iops_device", "blkio.throttle.write_iops_device"] {
        assert_eq!(fs::read_to_string(v1.path().join(file)).expect(file), "9:0 1000000");
    }
    let without = find(v2.path(), Version::V2, &[Controller::Cpu]).told().expect("told");
    assert!(without.contains("accounted only: no IO controller"), "{without}");
    let none = Iops::find(folder.path(), sys.path(), || Err(io::Error::other("full"))).told().expect("told");
    assert!(none.contains("full"), "{none}");
    assert_eq!(Iops::Unknown.told(), None);
}

#[test]
fn a_line_that_is_not_kept_is_an_error_that_names_its_file() {
    let root = tempfile::tempdir().expect("tempdir");
    std::os::unix::fs::symlink("/dev/null", root.path().join("io.max")).expect("link");
    let (leaf, _chores) = leaf(root.path(), Version::V2, &[Controller::Io]);
    let (path, error) = hold(&leaf, "9:0", 5).expect_err("not kept");
    assert!(path.ends_with("io.max") && error.to_string().contains("instead of riops=5"), "{error}");
}
