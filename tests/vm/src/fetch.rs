//! What a machine is made of: QEMU as a Debian package of the system, the kernel unpacked into the cache.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

/// Why no machine can be started here. Not an error of the program that was to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unavailable(pub String);

/// A program of this name proves the package that brings it.
const PACKAGES: &[(&str, &str)] = &[
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("mkfs.ext4", "e2fsprogs"),
    ("setpriv", "util-linux"),
    ("dpkg-deb", "dpkg"),
    ("ldd", "libc-bin"),
    ("strip", "binutils"),
];

/// Debian's name for its newest cloud kernel, which depends on the kernel itself.
const KERNEL: &str = "linux-image-cloud-amd64";

/// The kernel and its modules.
#[derive(Clone, Debug)]
pub struct Kernel {
    pub image: PathBuf,
    pub modules: PathBuf,
}

/// Installs and fetches what is missing, one caller at a time: apt refuses a second that reads its lists.
pub fn ensure() -> Result<std::result::Result<Kernel, Unavailable>> {
    let folder = cache_folder()?.join("vm");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let path = folder.join("lock");
    let lock = File::create(&path).and_then(|file| file.lock().map(|()| file));
    let _lock = lock.with_context(|| format!("cannot lock {}", path.display()))?;
    ensure_alone(&folder)
}

fn ensure_alone(folder: &Path) -> Result<std::result::Result<Kernel, Unavailable>> {
    if !cfg!(target_arch = "x86_64") {
        let reason = format!("the virtual machine is made for x86_64, this is {}", std::env::consts::ARCH);
        return Ok(Err(Unavailable(reason)));
    }
    let missing: Vec<_> =
        PACKAGES.iter().filter(|(file, _)| !is_there(file)).map(|(_, package)| *package).collect();
    let kernel = find_kernel(folder);
    if missing.is_empty()
        && let Some(kernel) = kernel
    {
        return Ok(Ok(kernel));
    }
    if !is_there("apt-get") {
        let reason = format!("no apt-get to bring {}", words(&missing));
        return Ok(Err(Unavailable(reason)));
    }
    if !missing.is_empty() {
        if !rustix::process::geteuid().is_root() {
            let list = missing.join(" ");
            let reason = format!("`apt-get install --no-install-recommends {list}` is needed, by root");
            return Ok(Err(Unavailable(reason)));
        }
        install(&missing)?;
    }
    match find_kernel(folder) {
        Some(kernel) => Ok(Ok(kernel)),
        None => fetch_kernel(folder).map(Ok),
    }
}

fn words(missing: &[&str]) -> String {
    if missing.is_empty() { KERNEL.to_owned() } else { missing.join(", ") }
}

fn install(packages: &[&str]) -> Result<()> {
    eprintln!("vm: installing Debian packages: {}", packages.join(" "));
    quiet(Command::new("apt-get").args(["update", "--quiet"]))?;
    quiet(
        Command::new("apt-get")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .args(["install", "--quiet", "--yes", "--no-install-recommends"])
            .args(packages),
    )
}

/// The kernel in the cache stays until somebody removes the folder: figures of one machine stay comparable.
fn find_kernel(folder: &Path) -> Option<Kernel> {
    let mut found: Vec<_> =
        fs::read_dir(folder).ok()?.flatten().filter_map(|entry| kernel_in(&entry.path())).collect();
    found.sort_by(|a, b| a.image.cmp(&b.image));
    found.pop()
}

fn kernel_in(folder: &Path) -> Option<Kernel> {
    let release = folder.file_name()?.to_str()?.strip_prefix("linux-image-")?;
    let image = folder.join(format!("boot/vmlinuz-{release}"));
    let modules = folder.join(format!("lib/modules/{release}/kernel"));
    (image.exists() && modules.exists()).then_some(Kernel { image, modules })
}

fn fetch_kernel(folder: &Path) -> Result<Kernel> {
    // Package lists that are missing or older than the archive are the usual trouble.
    if rustix::process::geteuid().is_root() {
        quiet(Command::new("apt-get").args(["update", "--quiet"]))?;
    }
    let depends = text(Command::new("apt-cache").args(["depends", KERNEL]))?;
    let package = depends
        .lines()
        .find_map(|line| {
            line.trim().strip_prefix("Depends: linux-image-").map(|rest| format!("linux-image-{rest}"))
        })
        .with_context(|| format!("`apt-cache depends {KERNEL}` names no kernel"))?;
    eprintln!("vm: fetching the kernel {package} (about 27 MB, once)");
    let work = tempfile::tempdir_in(folder).context("no folder to unpack the kernel in")?;
    quiet(Command::new("apt-get").args(["download", "--quiet", &package]).current_dir(work.path()))?;
    let deb = fs::read_dir(work.path())?
        .flatten()
        .find(|entry| entry.path().extension().is_some_and(|e| e == "deb"));
    let deb = deb.with_context(|| format!("apt-get brought no file for {package}"))?.path();
    let unpacked = work.path().join("unpacked");
    quiet(Command::new("dpkg-deb").arg("--extract").args([&deb, &unpacked]))?;
    let place = folder.join(&package);
    // Somebody else may have been as fast.
    if !place.exists() {
        fs::rename(&unpacked, &place).with_context(|| format!("cannot make {}", place.display()))?;
    }
    kernel_in(&place).with_context(|| format!("{package} holds no kernel where one is expected"))
}

/// `${XDG_CACHE_HOME:-~/.cache}/kruntimes`.
pub fn cache_folder() -> Result<PathBuf> {
    let base = match std::env::var_os("XDG_CACHE_HOME").filter(|value| !value.is_empty()) {
        Some(folder) => PathBuf::from(folder),
        None => PathBuf::from(std::env::var_os("HOME").context("neither XDG_CACHE_HOME nor HOME is set")?)
            .join(".cache"),
    };
    Ok(base.join("kruntimes"))
}

/// The program's path, the administrator's folders included.
pub fn which(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders =
        std::env::split_paths(&path).chain(["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from));
    folders.map(|folder| folder.join(program)).find(|file| file.is_file())
}

fn is_there(program: &str) -> bool {
    which(program).is_some()
}

/// Runs a command for its effect; a failure carries what it said.
pub fn quiet(command: &mut Command) -> Result<()> {
    text(command).map(drop)
}

/// What a command prints; a failure carries what it said.
pub fn text(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {program}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{program} ended with {}: {}", output.status, said.trim_end());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_counts_only_when_it_is_whole() {
        let cache = tempfile::tempdir().unwrap();
        let make = |package: &str, parts: &[&str]| {
            for part in parts {
                fs::create_dir_all(cache.path().join(package).join(part)).unwrap();
            }
        };
        assert!(find_kernel(cache.path()).is_none());
        make("linux-image-6.1-a", &["boot/vmlinuz-6.1-a"]);
        make("other", &["boot/vmlinuz-other", "lib/modules/other/kernel"]);
        assert!(find_kernel(cache.path()).is_none());
        make("linux-image-6.1-a", &["lib/modules/6.1-a/kernel"]);
        make("linux-image-6.1-b", &["boot/vmlinuz-6.1-b", "lib/modules/6.1-b/kernel"]);
        assert!(find_kernel(cache.path()).unwrap().image.ends_with("boot/vmlinuz-6.1-b"));
    }

    #[test]
    fn a_program_is_found_or_not() {
        assert!(is_there("sh") && !is_there("no-such-program"));
        assert!(
            quiet(Command::new("sh").args(["-c", "echo why >&2; exit 1"]))
                .unwrap_err()
                .to_string()
                .ends_with(": why")
        );
    }
}
