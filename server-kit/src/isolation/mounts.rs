//! Namespaces: a view of the file tree in which what is another's, or the kit's, is not there.
//!
//! The nursery covers once what no Run may see; each supervisor, ahead of need, takes a view of its own with a
//! `/tmp` and `/dev/shm` of its own. A Run's process has no capability to undo any of it. The mounts
//! go with the last process in them.
#![allow(unsafe_code, reason = "unshare(2)")]

use std::ffi::c_int;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use rustix::fs::{Mode, OFlags};

use super::bounds::ROOM;
use super::places::Places;
use super::rooms::{Rooms, SHARED_MEMORY};

const NOTHING: Option<&str> = None;
/// What each Run has for itself.
const OWN: [&str; 2] = ["/tmp", SHARED_MEMORY];

/// Enters a user namespace in which this process has every capability over namespaces that it makes, and
/// nobody another uid. This process must have one thread and be dumpable.
pub(crate) fn enter_user_namespace() -> Result<(), String> {
    let (uid, gid) = (nix::unistd::getuid(), nix::unistd::getgid());
    unshare(libc::CLONE_NEWUSER).map_err(|error| format!("no user namespace: {error}"))?;
    for (file, text) in [
        ("setgroups", "deny".to_owned()),
        ("uid_map", format!("{uid} {uid} 1")),
        ("gid_map", format!("{gid} {gid} 1")),
    ] {
        fs::write(format!("/proc/self/{file}"), text)
            .map_err(|error| format!("a user namespace without {file}: {error}"))?;
    }
    Ok(())
}

fn unshare(flags: c_int) -> io::Result<()> {
    // SAFETY: plain system call; this process has one thread.
    if unsafe { libc::unshare(flags) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// In the nursery, once: hides the kit's folder. Where Runs have `ids` of their own, opens a way to the work
/// folder for them through a folder that is closed to others (by hiding that folder: they could not look into
/// it anyway). With the server's id a Run can: a home with the programs that it starts may be one.
pub(crate) fn hide_once(places: &Places, ids: bool) -> Result<(), String> {
    unshare(libc::CLONE_NEWNS).map_err(|error| format!("no mount namespace: {error}"))?;
    mount(NOTHING, "/", NOTHING, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NOTHING)
        .map_err(|errno| format!("the mounts cannot be made private: {}", errno.desc()))?;
    let mut closed: Vec<PathBuf> = Vec::new();
    if ids {
        closed.extend(visible(places).iter().filter_map(|path| closed_on_the_way(path)));
    }
    closed.sort();
    closed.dedup();
    cover(&closed, 0o755, places)?;
    match &places.socket {
        Some(socket) if socket.exists() => cover_one(socket, 0o555),
        _ => Ok(()),
    }
}

/// What each Run has for itself here: not what the Runtime's author gave to all.
pub(crate) fn own(places: &Places) -> Vec<&'static Path> {
    let own =
        OWN.into_iter().map(Path::new).filter(|path| !places.shared.iter().any(|shared| shared == path));
    // A container without /dev/shm has no private one either.
    own.filter(|path| path.is_dir()).collect()
}

/// In each supervisor: a view of its own, in which the work folder is empty. The answer is the real one, for
/// [`show`], and what the Run will have for itself.
pub(crate) fn own_view(places: &Places, network: bool) -> Result<(OwnedFd, Rooms), String> {
    let network = if network { libc::CLONE_NEWNET } else { 0 };
    unshare(libc::CLONE_NEWNS | libc::CLONE_NEWIPC | network)
        .map_err(|error| format!("no namespaces: {error}"))?;
    let own = own(places);
    cover(&own.iter().map(|path| path.to_path_buf()).collect::<Vec<_>>(), 0o1777, places)?;
    let rooms = Rooms::open(&own).map_err(|error| format!("what is private cannot be opened: {error}"))?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let work = rustix::fs::open(&places.work, flags, Mode::empty())
        .map_err(|error| format!("{}: {error}", places.work.display()))?;
    cover_one(&places.work, 0o755)?;
    Ok((work, rooms))
}

/// In a supervisor that knows its Run: how much each of what is its own may hold.
pub(crate) fn make_room(places: &Places, bytes: u64) -> Result<(), String> {
    if bytes == ROOM {
        return Ok(());
    }
    let options = holding(bytes);
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    own(places).into_iter().try_for_each(|folder| {
        mount(NOTHING, folder, NOTHING, flags, Some(options.as_str()))
            .map_err(|errno| format!("the size of {}: {}", folder.display(), errno.desc()))
    })
}

/// In a supervisor that knows its Run: puts the Run's folder in its place in the empty work folder, or takes
/// the cover away for one that has none of its own.
pub(crate) fn show(places: &Places, work: &OwnedFd, own: Option<&Path>) -> Result<(), String> {
    let Some(own) = own else {
        return nix::mount::umount2(&places.work, nix::mount::MntFlags::MNT_DETACH)
            .map_err(|errno| format!("the cover of {}: {}", places.work.display(), errno.desc()));
    };
    let failed = |error: &dyn std::fmt::Display| format!("mount at {}: {error}", own.display());
    let name = own.file_name().ok_or_else(|| failed(&"it has no name"))?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = match rustix::fs::openat(work, name, flags, Mode::empty()) {
        Ok(folder) => folder,
        // The command's own failure, told as such.
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP) => return Ok(()),
        Err(error) => return Err(failed(&error)),
    };
    fs::create_dir(own).map_err(|error| failed(&error))?;
    let source = format!("/proc/self/fd/{}", folder.as_raw_fd());
    mount(Some(source.as_str()), own, NOTHING, MsFlags::MS_BIND | MsFlags::MS_REC, NOTHING)
        .map_err(|errno| failed(&errno.desc()))
}

/// In each supervisor whose Runs keep the view of all: a network of its own.
pub(crate) fn own_network() -> Result<(), String> {
    unshare(libc::CLONE_NEWNET).map_err(|error| format!("no network namespace: {error}"))
}

/// What Runs must still see at its place.
fn visible(places: &Places) -> Vec<&PathBuf> {
    let folders = places.leasable.iter().filter(|path| path.is_dir());
    [&places.work].into_iter().chain(&places.shared).chain(folders).collect()
}

/// The topmost folder above `path` that another uid cannot pass, but for /tmp, which is covered anyway.
fn closed_on_the_way(path: &Path) -> Option<PathBuf> {
    let first = closed_above(path)?;
    (!first.starts_with("/tmp")).then_some(first)
}

/// The topmost folder above `path` that another uid cannot pass.
pub(crate) fn closed_above(path: &Path) -> Option<PathBuf> {
    let mut above: Vec<&Path> = path.ancestors().skip(1).collect();
    above.reverse();
    let is_closed = |folder: &&&Path| closed(folder);
    above.iter().find(is_closed).map(|folder| folder.to_path_buf())
}

/// Whether somebody with neither the owner's nor the group's id can neither pass a folder nor execute a file.
pub(crate) fn closed(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o001 == 0)
}

/// Puts an empty folder over each of `folders`, and what Runs must see back into it.
fn cover(folders: &[PathBuf], mode: u32, places: &Places) -> Result<(), String> {
    let beneath = |path: &Path| folders.iter().any(|folder| path != folder && path.starts_with(folder));
    let failed = |path: &Path, error: &dyn std::fmt::Display| format!("mount at {}: {error}", path.display());
    let mut kept: Vec<(&PathBuf, OwnedFd)> = Vec::new();
    for path in visible(places).into_iter().filter(|path| beneath(path)) {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty()).map_err(|error| failed(path, &error))?;
        kept.push((path, fd));
    }
    for folder in folders {
        cover_one(folder, mode)?;
    }
    for (path, fd) in kept {
        make_way(path).map_err(|error| failed(path, &error))?;
        let source = format!("/proc/self/fd/{}", fd.as_raw_fd());
        mount(Some(source.as_str()), path, NOTHING, MsFlags::MS_BIND | MsFlags::MS_REC, NOTHING)
            .map_err(|errno| failed(path, &errno.desc()))?;
    }
    Ok(())
}

/// Folders down to `path`, passable for everybody.
fn make_way(path: &Path) -> io::Result<()> {
    let mut above: Vec<&Path> = path.ancestors().collect();
    above.reverse();
    for folder in above {
        match fs::create_dir(folder) {
            Ok(()) => fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            // A read-only file system has it, or the mount will say so.
            Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// So many bytes in files, and as many files as have a page each: a file takes memory without any content.
fn holding(bytes: u64) -> String {
    format!("size={bytes},nr_inodes={}", (bytes / 4096).max(1024))
}

fn cover_one(folder: &Path, mode: u32) -> Result<(), String> {
    let options = format!("mode={mode:o},{}", holding(ROOM));
    mount(
        Some("kruntimes"),
        folder,
        Some("tmpfs"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
        Some(options.as_str()),
    )
    .map_err(|errno| format!("mount at {}: {}", folder.display(), errno.desc()))
}
