//! The machine's disk: programs, the libraries they are linked with, and a few files that every system has.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Component, Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::fetch::{quiet, which};

/// Tools of this system that tests use. One that is missing here is missing there.
const TOOLS: &[&str] = &[
    "awk", "bash", "cat", "chmod", "chown", "cp", "cut", "date", "dd", "df", "dirname", "du", "echo", "env",
    "expr", "false", "find", "flock", "grep", "head", "id", "ip", "kill", "ldd", "ln", "ls", "mkdir",
    "mkfifo", "mknod", "mktemp", "mount", "mv", "nice", "nproc", "nsenter", "printf", "prlimit", "ps", "pwd",
    "readlink", "rm", "rmdir", "sed", "seq", "setpriv", "setsid", "sh", "sleep", "sort", "stat", "sync",
    "tail", "taskset", "tee", "test", "timeout", "touch", "tr", "true", "truncate", "umount", "uname",
    "unshare", "wc", "which", "yes",
];

/// A merged `/usr`, as the paths of the programs assume.
const LINKS: &[(&str, &str)] =
    &[("bin", "usr/bin"), ("sbin", "usr/sbin"), ("lib", "usr/lib"), ("lib64", "usr/lib64")];

const FOLDERS: &[&str] = &[
    "dev",
    "etc",
    "home",
    "proc",
    "root",
    "run",
    "sys",
    "tmp",
    "usr/bin",
    "usr/lib",
    "usr/lib64",
    "usr/sbin",
    "var/tmp",
    "workspace",
];

const ETC: &[(&str, &str)] = &[
    ("etc/passwd", "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n"),
    ("etc/group", "root:x:0:\nnogroup:x:65534:\n"),
    ("etc/hosts", "127.0.0.1 localhost\n"),
    ("etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files\n"),
];

/// Programs with symbols above this size are taken without them: the disk is copied for each machine.
const STRIP_ABOVE: u64 = 1 << 20;

/// A folder that becomes the machine's root file system.
pub struct Root {
    folder: PathBuf,
    taken: BTreeSet<PathBuf>,
}

impl Root {
    /// Makes the skeleton and takes the tools.
    pub fn make(folder: &Path) -> Result<Self> {
        for below in FOLDERS {
            fs::create_dir_all(folder.join(below))?;
        }
        for (link, target) in LINKS {
            std::os::unix::fs::symlink(target, folder.join(link))?;
        }
        for (path, content) in ETC {
            fs::write(folder.join(path), content)?;
        }
        for below in ["tmp", "var/tmp"] {
            fs::set_permissions(folder.join(below), fs::Permissions::from_mode(0o1777))?;
        }
        let mut root = Self { folder: folder.to_owned(), taken: BTreeSet::new() };
        let tools: Vec<_> = TOOLS.iter().filter_map(|tool| which(tool)).collect();
        root.take(&tools)?;
        Ok(root)
    }

    /// Takes files and folders, each to its own path, and the libraries that programs among them are linked with.
    pub fn take(&mut self, paths: &[PathBuf]) -> Result<()> {
        let mut programs = Vec::new();
        for path in paths {
            self.take_one(path, &mut programs)?;
        }
        for library in libraries(&programs)? {
            self.take_one(&library, &mut Vec::new())?;
        }
        Ok(())
    }

    fn take_one(&mut self, path: &Path, programs: &mut Vec<PathBuf>) -> Result<()> {
        let seen = |what: &str| format!("cannot {what} {}", path.display());
        // The folder's links are those of the merged /usr or of the machine's own making: names below are real.
        let absolute = std::path::absolute(path)?;
        let (Some(parent), Some(name)) = (absolute.parent(), absolute.file_name()) else {
            bail!("{} is no file to take along", path.display())
        };
        let real = fs::canonicalize(parent).with_context(|| seen("find"))?.join(name);
        self.link_folders(parent)?;
        if !self.taken.insert(real.clone()) {
            return Ok(());
        }
        let kind = fs::symlink_metadata(&real).with_context(|| seen("find"))?.file_type();
        let to = self.inside(&real);
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent).with_context(|| seen("take"))?;
        }
        if kind.is_symlink() {
            let target = fs::read_link(&real)?;
            std::os::unix::fs::symlink(&target, &to).with_context(|| seen("take"))?;
            return self.take_one(&real.parent().unwrap_or(Path::new("/")).join(target), programs);
        }
        if kind.is_dir() {
            fs::create_dir_all(&to)?;
            for entry in fs::read_dir(&real)? {
                self.take_one(&entry?.path(), programs)?;
            }
            return Ok(());
        }
        copy(&real, &to).with_context(|| seen("take"))?;
        if is_elf(&real) {
            programs.push(real);
        }
        Ok(())
    }

    /// A path whose folders go through links works inside as it does here.
    fn link_folders(&mut self, folder: &Path) -> Result<()> {
        let mut so_far = PathBuf::from("/");
        for step in folder.components().filter(|step| matches!(step, Component::Normal(_))) {
            so_far.push(step);
            let is_known = LINKS.iter().any(|(link, _)| so_far == Path::new("/").join(link));
            if !is_known && fs::symlink_metadata(&so_far).is_ok_and(|data| data.is_symlink()) {
                let to = self.inside(&so_far);
                if fs::symlink_metadata(&to).is_err() {
                    fs::create_dir_all(to.parent().unwrap_or(&self.folder))?;
                    std::os::unix::fs::symlink(fs::canonicalize(&so_far)?, &to)?;
                }
            }
        }
        Ok(())
    }

    fn inside(&self, path: &Path) -> PathBuf {
        self.folder.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// Writes one more file.
    pub fn write(&self, path: &str, content: &[u8]) -> Result<()> {
        fs::write(self.folder.join(path), content)
            .with_context(|| format!("cannot write {path} of the machine"))
    }

    /// Makes the disk: a sparse file with an ext4 file system of `mebibytes`.
    pub fn disk(&self, image: &Path, mebibytes: u32) -> Result<()> {
        fs::File::create(image)?.set_len(u64::from(mebibytes) << 20)?;
        // No journal: it would write more than the program under test did.
        quiet(
            Command::new(which("mkfs.ext4").context("no mkfs.ext4")?)
                .args(["-q", "-F", "-O", "^has_journal", "-E", "root_owner=0:0,lazy_itable_init=1", "-d"])
                .args([&self.folder, image]),
        )
    }
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    if fs::metadata(from)?.len() > STRIP_ABOVE && is_elf(from) {
        return quiet(Command::new("strip").args(["--strip-debug", "-o"]).args([to, from]));
    }
    fs::copy(from, to)?;
    Ok(())
}

fn is_elf(path: &Path) -> bool {
    let mut start = [0; 4];
    let read = |mut file: fs::File| std::io::Read::read_exact(&mut file, &mut start);
    fs::File::open(path).and_then(read).is_ok() && start == *b"\x7fELF"
}

/// What the dynamic linker would load for these programs; nothing for static ones.
pub fn libraries(programs: &[PathBuf]) -> Result<BTreeSet<PathBuf>> {
    if programs.is_empty() {
        return Ok(BTreeSet::new());
    }
    // It fails when one of several is static, and tells the others all the same.
    let output = Command::new("ldd").args(programs).output().context("cannot run ldd")?;
    Ok(parse_libraries(&String::from_utf8_lossy(&output.stdout)))
}

/// Lines are `name => /path (0x..)`, or `/path/of/the/linker (0x..)`.
fn parse_libraries(said: &str) -> BTreeSet<PathBuf> {
    let path = |line: &str| {
        let file = line.trim().rsplit_once(" (0x")?.0;
        let file = file.rsplit_once(" => ").map_or(file, |(_, file)| file);
        file.starts_with('/').then(|| PathBuf::from(file))
    };
    said.lines().filter_map(path).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_read_from_what_ldd_says() {
        let said = "/bin/bash:\n\tlinux-vdso.so.1 (0x7ffe)\n\tlibtinfo.so.6 => /lib/x/libtinfo.so.6 (0x7f)\n\t/lib64/ld.so (0x7f)\n\tstatically linked\n";
        let found: Vec<_> = parse_libraries(said).into_iter().collect();
        assert_eq!(found, [Path::new("/lib/x/libtinfo.so.6"), Path::new("/lib64/ld.so")]);
    }

    #[test]
    fn programs_come_with_libraries_and_through_links() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let folder = fs::canonicalize(from.path()).unwrap();
        fs::create_dir(folder.join("real")).unwrap();
        fs::copy("/bin/true", folder.join("real/program")).unwrap();
        std::os::unix::fs::symlink("real", folder.join("folder")).unwrap();
        std::os::unix::fs::symlink("program", folder.join("real/name")).unwrap();
        let mut root = Root::make(to.path()).unwrap();
        root.take(&[folder.join("folder/name")]).unwrap();
        let inside = root.inside(&folder);
        assert!(inside.join("real/program").is_file());
        assert_eq!(fs::read_link(inside.join("real/name")).unwrap(), Path::new("program"));
        assert_eq!(fs::read_link(inside.join("folder")).unwrap(), folder.join("real"));
        assert!(to.path().join("usr/bin/bash").exists(), "a tool");
        for library in libraries(&[folder.join("real/program")]).unwrap() {
            assert!(
                fs::symlink_metadata(root.inside(&fs::canonicalize(&library).unwrap())).is_ok(),
                "{library:?}"
            );
        }
    }
}
