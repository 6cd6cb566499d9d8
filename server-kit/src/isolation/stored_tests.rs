//! On real folders; those that are closed to their owner by a server without rights are in `tests/hurt.rs`.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use super::*;

const ALL: Effort = Effort { enough: u64::MAX, at_most: Duration::from_secs(30) };

fn all(root: &Path) -> Result<u64, Unmeasured> {
    stored(root, ALL, |_| true)
}

#[test]
fn it_is_what_the_disk_holds_and_links_are_not_followed() {
    let dir = tempfile::tempdir().expect("tempdir");
    let outside = tempfile::tempdir().expect("tempdir");
    fs::write(outside.path().join("big"), vec![1; 1 << 20]).expect("write");
    fs::create_dir(dir.path().join("deep")).expect("folder");
    fs::write(dir.path().join("deep/file"), vec![1; 100_000]).expect("write");
    symlink(outside.path(), dir.path().join("link")).expect("link");
    fs::File::create(dir.path().join("sparse")).and_then(|file| file.set_len(1 << 30)).expect("file");
    let used = all(dir.path()).expect("measured");
    assert!((100_000..300_000).contains(&used), "{used}");
    assert_eq!(all(&dir.path().join("link")), Ok(0), "a link is no folder");
    assert_eq!(all(Path::new("/nowhere/at/all")), Ok(0));
}

#[test]
fn a_file_with_several_names_counts_once() {
    let dir = tempfile::tempdir().expect("tempdir");
    fs::write(dir.path().join("a"), vec![1; 100_000]).expect("write");
    let once = all(dir.path()).expect("measured");
    fs::hard_link(dir.path().join("a"), dir.path().join("b")).expect("link");
    assert_eq!(all(dir.path()), Ok(once));
}

#[test]
fn what_is_too_deep_is_not_guessed() {
    let dir = tempfile::tempdir().expect("tempdir");
    let nested = |levels: usize| (0..levels).fold(dir.path().to_owned(), |path, _| path.join("d"));
    fs::create_dir_all(nested(DEEPEST)).expect("folders");
    assert!(all(dir.path()).is_ok());
    fs::create_dir(nested(DEEPEST + 1)).expect("folder");
    assert_eq!(all(dir.path()), Err(Unmeasured::Deep));
}

#[test]
fn nobody_looks_longer_than_needed() {
    let dir = tempfile::tempdir().expect("tempdir");
    for name in ["a", "b", "c"] {
        fs::write(dir.path().join(name), vec![1; 100_000]).expect("write");
    }
    let some = stored(dir.path(), Effort { enough: 100_000, ..ALL }, |_| true).expect("measured");
    assert!(some > 100_000 && some < 300_000, "{some}");
    let hasty = Effort { at_most: Duration::ZERO, ..ALL };
    assert_eq!(stored(dir.path(), hasty, |_| true), Err(Unmeasured::Long(0)));
}

#[test]
fn a_closed_folder_stays_closed() {
    let dir = tempfile::tempdir().expect("tempdir");
    let inner = dir.path().join("inner");
    fs::create_dir(&inner).expect("folder");
    fs::write(inner.join("file"), vec![1; 100_000]).expect("write");
    for mode in [0o300, 0o400, 0o000] {
        fs::set_permissions(&inner, fs::Permissions::from_mode(mode)).expect("mode");
        assert!(all(dir.path()).expect("measured") >= 100_000, "{mode:o}");
        let now = fs::metadata(&inner).expect("metadata").permissions().mode() & 0o777;
        assert_eq!(now, mode, "{now:o}");
    }
}
