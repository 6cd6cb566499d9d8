//! Programs built from Go modules, once, into the cache: kubectl, helm, every Kubernetes component, and two helpers of a few lines.
//!
//! Each program has a stamp beside it, the hash of all that went into it: our module's files and the build's flags.
//! A program whose stamp differs is built again. A lock makes two builders wait for each other.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use sha2::{Digest as _, Sha256};

use crate::other_version::MADE;
use crate::process::{on_path, write};

/// The Kubernetes components that the one multi-call program answers for.
const COMPONENTS: [&str; 6] =
    ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy", "kubelet"];

/// Said to the chart engine as its default Kubernetes version too.
const HELM: &str = "v3.22.0";

const GO_MOD: &str = include_str!("../go/go.mod");

/// What a build is: where from, where to, and how.
pub(crate) struct Program<'a> {
    /// For messages: name and version.
    pub what: String,
    /// How long it takes with an empty build cache, for a person's patience.
    pub usual_minutes: u32,
    /// A package path of the module, or `MODULE/PACKAGE@VERSION`.
    pub package: &'a str,
    /// The folder of a module that was made ([`crate::other_version`]); else it is ours.
    pub module: Option<&'a Path>,
    pub flags: String,
    pub to: PathBuf,
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

/// The version of Kubernetes that our module requires, such as `v1.36.3`.
pub(crate) fn kubernetes_version() -> Result<&'static str> {
    GO_MOD
        .lines()
        .find_map(|line| line.trim().strip_prefix("k8s.io/kubernetes "))
        .context("tests/node/go/go.mod requires no k8s.io/kubernetes")
}

/// The stock kubectl, built if it is not there. Needs Go, nothing else.
pub fn ensure_kubectl() -> Result<PathBuf> {
    let version = kubernetes_version()?;
    build(&Program {
        what: format!("kubectl {version}"),
        usual_minutes: 2,
        package: "./cmd/kubectl",
        module: None,
        flags: version_flags(version)?,
        to: cache_folder()?.join("bin/kubectl"),
    })
}

/// The stock helm, built if it is not there.
pub fn ensure_helm() -> Result<PathBuf> {
    let (major, minor) = major_minor(kubernetes_version()?)?;
    let module = "helm.sh/helm/v3";
    let mut flags = format!("-s -w -X {module}/internal/version.version={HELM}");
    for package in ["pkg/chartutil", "pkg/lint/rules"] {
        flags += &format!(
            " -X {module}/{package}.k8sVersionMajor={major} -X {module}/{package}.k8sVersionMinor={minor}"
        );
    }
    let package = format!("{module}/cmd/helm@{HELM}");
    build(&Program {
        what: format!("helm {HELM}"),
        usual_minutes: 2,
        package: &package,
        module: None,
        flags,
        to: cache_folder()?.join("bin/helm"),
    })
}

/// The folder with every Kubernetes component by its usual name, built if it is not there.
pub fn ensure_kubernetes() -> Result<PathBuf> {
    let version = kubernetes_version()?;
    let folder = cache_folder()?.join(format!("bin/kubernetes-{version}"));
    build(&Program {
        what: format!("Kubernetes {version}"),
        usual_minutes: 7,
        package: "./cmd/kube",
        module: None,
        flags: version_flags(version)?,
        to: folder.join("kube"),
    })?;
    link(&folder, "kube", &COMPONENTS)?;
    Ok(folder)
}

/// Gives a program the names that it looks at.
pub(crate) fn link(folder: &Path, program: &str, names: &[&str]) -> Result<()> {
    for name in names {
        let link = folder.join(name);
        if fs::read_link(&link).is_err() {
            match std::os::unix::fs::symlink(program, &link) {
                Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                    return Err(error).with_context(|| format!("cannot link {}", link.display()));
                }
                _ => {}
            }
        }
    }
    Ok(())
}

/// A helper of a few lines from our module: `forward` or `pause`.
pub(crate) fn ensure_helper(name: &str) -> Result<PathBuf> {
    build(&Program {
        what: name.to_owned(),
        usual_minutes: 1,
        package: &format!("./cmd/{name}"),
        module: None,
        flags: "-s -w".to_owned(),
        to: cache_folder()?.join("bin").join(name),
    })
}

/// The components tell their version from these; without them they call themselves v0.0.0 and clients complain.
pub(crate) fn version_flags(version: &str) -> Result<String> {
    let (major, minor) = major_minor(version)?;
    let variable = "-X k8s.io/component-base/version";
    Ok(format!(
        "-s -w {variable}.gitVersion={version} {variable}.gitMajor={major} {variable}.gitMinor={minor} {variable}.gitTreeState=clean"
    ))
}

fn major_minor(version: &str) -> Result<(&str, &str)> {
    let mut parts = version.trim_start_matches('v').split('.');
    parts.next().zip(parts.next()).with_context(|| format!("{version:?} is no version"))
}

fn module_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("go")
}

pub(crate) fn build(program: &Program<'_>) -> Result<PathBuf> {
    let folder = program.to.parent().context("a program lies in a folder")?;
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let stamp = stamp(program)?;
    let stamp_file = program.to.with_added_extension("stamp");
    let is_current =
        || program.to.is_file() && fs::read_to_string(&stamp_file).is_ok_and(|found| found == stamp);
    if is_current() {
        return Ok(program.to.clone());
    }
    let lock = File::create(program.to.with_added_extension("lock"))
        .context("cannot make a lock file in the cache")?;
    lock.lock().context("cannot lock the cache")?;
    if !is_current() {
        if !on_path("go") {
            bail!(
                "{} is built from source and needs Go {} or later: install it and try again",
                program.what,
                go_version()
            );
        }
        eprintln!(
            "building {} from source into {} (about {} min the first time)",
            program.what,
            program.to.display(),
            program.usual_minutes
        );
        let started = Instant::now();
        compile(program, folder)?;
        write(&stamp_file, &stamp)?;
        eprintln!("built {} in {} s", program.what, started.elapsed().as_secs());
    }
    Ok(program.to.clone())
}

/// Go writes into a folder of its own there; the finished program is renamed into its place.
fn compile(program: &Program<'_>, folder: &Path) -> Result<()> {
    let made = tempfile::tempdir_in(folder)?;
    let mut go = Command::new("go");
    go.env("CGO_ENABLED", "0");
    if program.package.contains('@') {
        go.arg("install").env("GOBIN", made.path());
    } else {
        go.arg("build").arg("-o").arg(made.path().join("program"));
        match program.module {
            None => go.current_dir(module_folder()),
            // Its sums and indirect requirements are for Go to complete.
            Some(module) => go.current_dir(module).env("GOFLAGS", "-mod=mod"),
        };
    }
    go.args(["-v", "-trimpath", "-ldflags", &program.flags, program.package]);
    let mut child = go.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().context("cannot start go")?;
    // `-v` prints the name of each package as it is compiled; all else that go says is kept for the error.
    let mut packages = 0;
    let mut said = VecDeque::new();
    let mut told = Instant::now();
    for line in BufReader::new(child.stderr.take().context("no stderr")?).lines() {
        let line = line?;
        if line.contains(' ') {
            said.push_back(line);
            if said.len() > 40 {
                said.pop_front();
            }
        } else {
            packages += 1;
            if told.elapsed() >= Duration::from_secs(15) {
                told = Instant::now();
                eprintln!("  {packages} packages compiled, now {line}");
            }
        }
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("go could not build {} ({status}):\n{}", program.what, Vec::from(said).join("\n"));
    }
    let binary = fs::read_dir(made.path())?.next().context("go made no program")??.path();
    fs::rename(&binary, &program.to).with_context(|| format!("cannot write {}", program.to.display()))
}

/// The hash of all that a program is made of. Our module counts whole: it is small, and go's own cache is finer.
fn stamp(program: &Program<'_>) -> Result<String> {
    let mut hash = Sha256::new();
    for part in [program.package, &program.flags] {
        hash.update(part);
        hash.update([0]);
    }
    if program.package.starts_with('.') {
        let main = format!("{}/main.go", program.package);
        let (module, files) = match program.module {
            None => (module_folder(), vec!["go.mod", "go.sum", &main]),
            Some(module) => (module.to_owned(), vec![MADE, &main]),
        };
        for file in files {
            let path = module.join(file);
            hash.update(fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?);
        }
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

fn go_version() -> &'static str {
    GO_MOD.lines().find_map(|line| line.strip_prefix("go ")).unwrap_or("1.26")
}

/// All that a node or an API server runs; the folder of the Kubernetes components.
pub(crate) fn ensure_all() -> Result<PathBuf> {
    ensure_kubectl()?;
    ensure_helm()?;
    for helper in ["forward", "pause"] {
        ensure_helper(helper)?;
    }
    ensure_kubernetes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_module_names_one_version_everywhere() {
        let version = kubernetes_version().unwrap();
        let staging = version.replacen("v1.", "v0.", 1);
        let replaced: Vec<&str> = GO_MOD.lines().filter(|line| line.contains("=> k8s.io/")).collect();
        assert!(replaced.len() > 25, "{replaced:?}");
        for line in replaced {
            assert!(line.ends_with(&staging), "{line}");
        }
        assert_eq!(major_minor(version).unwrap().0, "1");
    }

    #[test]
    fn a_stamp_follows_flags_and_files() {
        let program = |flags: &str, package| Program {
            what: String::new(),
            usual_minutes: 1,
            package,
            module: None,
            flags: flags.to_owned(),
            to: PathBuf::new(),
        };
        let one = stamp(&program("a", "./cmd/pause")).unwrap();
        assert_eq!(one, stamp(&program("a", "./cmd/pause")).unwrap());
        assert_ne!(one, stamp(&program("b", "./cmd/pause")).unwrap());
        assert_ne!(one, stamp(&program("a", "./cmd/forward")).unwrap());
    }
}
