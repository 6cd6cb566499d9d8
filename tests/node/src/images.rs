//! The images of the project, made from its own `images/Dockerfile` without a registry and without a daemon.
//!
//! The base image is a Debian made once into the cache by mmdebstrap and given to the Dockerfile as `BASE`; buildah makes one image
//! per target of the Dockerfile; all of them travel in one OCI archive, so that the shared base is imported once.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};

use crate::components::PAUSE_IMAGE;
use crate::go::{cache_folder, ensure_helper};
use crate::node::Node;
use crate::packages;
use crate::process::{output, run};

/// A program that has an image: a target of the Dockerfile, and the cargo package that builds it.
#[derive(Clone, Copy, Debug)]
pub struct ImageSource {
    /// Of the program, of the Dockerfile's target and of the image.
    pub name: &'static str,
    pub package: &'static str,
}

/// Every image of the project.
pub const IMAGES: [ImageSource; 5] = [
    ImageSource { name: "scheduler", package: "control-plane" },
    ImageSource { name: "controller", package: "control-plane" },
    ImageSource { name: "runtimed", package: "runtimed" },
    ImageSource { name: "bash-server", package: "bash-server" },
    ImageSource { name: "krt", package: "krt" },
];

/// What the base image holds beside Debian's minimum; the Dockerfile installs what a base lacks, which needs a network.
const BASE_PACKAGES: &str = "bash,ca-certificates,git,openssh-client,python3-minimal";
const BASE_IMAGE: &str = "localhost/base:1";

/// The name by which a loaded image is known in the node, for a program's name.
pub fn image_name(program: &str) -> String {
    format!("localhost/kruntimes/{program}:dev")
}

/// Builds the images of the named programs, or of all, and imports them into the node.
pub fn load(node: &Node, names: &[String], release: bool) -> Result<()> {
    let started = Instant::now();
    if let Some(unknown) = names.iter().find(|&name| !IMAGES.iter().any(|image| image.name == name)) {
        bail!("no image is called {unknown:?}: there are {}", IMAGES.map(|image| image.name).join(", "));
    }
    let wanted: Vec<ImageSource> = IMAGES
        .into_iter()
        .filter(|image| names.is_empty() || names.iter().any(|name| name == image.name))
        .collect();
    let buildah = Buildah::new()?;
    buildah.ensure_base()?;
    let context = tempfile::tempdir_in(&buildah.folder)?;
    let binaries = context.path().join("binaries");
    fs::create_dir(&binaries)?;
    compile(&wanted, release, &binaries)?;
    let archive = context.path().join("images");
    for image in &wanted {
        let name = image_name(image.name);
        run(buildah
            .command("build")
            .args([
                "--layers=false",
                "--build-arg",
                &format!("BASE={BASE_IMAGE}"),
                "--target",
                image.name,
                "--tag",
                &name,
                "--file",
            ])
            .arg(workspace()?.join("images/Dockerfile"))
            .arg(&binaries))?;
        buildah.push(&name, &format!("oci:{}:{name}", archive.display()))?;
    }
    import(node, &archive)?;
    // Only the base is worth keeping: the rest is made again in a moment.
    for image in &wanted {
        run(buildah.command("rmi").arg(image_name(image.name)))?;
    }
    eprintln!("loaded after {:.1} s:", started.elapsed().as_secs_f64());
    for image in wanted {
        println!("{}", image_name(image.name));
    }
    Ok(())
}

/// The archive of the sandbox container's image, made if it is not there.
pub(crate) fn pause_archive() -> Result<PathBuf> {
    let archive = cache_folder()?.join("images/pause.tar");
    if archive.exists() {
        return Ok(archive);
    }
    let program = ensure_helper("pause")?;
    let buildah = Buildah::new()?;
    let container = buildah.from_scratch()?;
    run(buildah.command("add").args(["--quiet", &container]).arg(program).arg("/pause"))?;
    run(buildah.command("config").args([
        "--entrypoint",
        r#"["/pause"]"#,
        "--user",
        "65535:65535",
        &container,
    ]))?;
    run(buildah.command("commit").args(["--rm", "--quiet", &container, PAUSE_IMAGE]))?;
    let made = tempfile::tempdir_in(&buildah.folder)?;
    let new = made.path().join("pause.tar");
    buildah.push(PAUSE_IMAGE, &format!("oci-archive:{}:{PAUSE_IMAGE}", new.display()))?;
    fs::rename(&new, &archive).context("cannot write into the cache")?;
    Ok(archive)
}

/// buildah with storage of its own in the cache.
struct Buildah {
    folder: PathBuf,
}

impl Buildah {
    fn new() -> Result<Self> {
        packages::ensure(packages::IMAGES)?;
        let folder = cache_folder()?.join("images");
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        Ok(Self { folder })
    }

    fn command(&self, subcommand: &str) -> Command {
        let storage = |name: &str| format!("--{name}={}", self.folder.join(name).display());
        let mut command = Command::new("buildah");
        // chroot: no container runtime and no network of its own for the RUN lines.
        command.env("BUILDAH_ISOLATION", "chroot").args([
            storage("root"),
            storage("runroot"),
            "--storage-driver=vfs".to_owned(),
            subcommand.to_owned(),
        ]);
        command
    }

    fn from_scratch(&self) -> Result<String> {
        let container = output(self.command("from").args(["--quiet", "scratch"]))?;
        Ok(String::from_utf8_lossy(&container.stdout).trim().to_owned())
    }

    /// Uncompressed: it goes no further than the next command.
    fn push(&self, image: &str, to: &str) -> Result<()> {
        run(self.command("push").args(["--quiet", "--disable-compression", image, to]))
    }

    fn ensure_base(&self) -> Result<()> {
        if self.command("inspect").args(["--type=image", BASE_IMAGE]).output()?.status.success() {
            return Ok(());
        }
        let release = fs::read_to_string("/etc/os-release")?;
        let suite =
            release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME=")).unwrap_or("bookworm");
        eprintln!("making a base image of Debian {suite} (about 1 min, once)");
        let tar = tempfile::Builder::new().suffix(".tar").tempfile_in(&self.folder)?;
        run(Command::new("mmdebstrap")
            .args(["--variant=minbase", "--include", BASE_PACKAGES])
            .args([
                "--dpkgopt=path-exclude=/usr/share/doc/*",
                "--dpkgopt=path-exclude=/usr/share/man/*",
                "--dpkgopt=path-exclude=/usr/share/locale/*",
            ])
            .arg(suite)
            .arg(tar.path()))?;
        let container = self.from_scratch()?;
        run(self.command("add").args(["--quiet", &container]).arg(tar.path()).arg("/"))?;
        run(self.command("commit").args(["--rm", "--quiet", &container, BASE_IMAGE]))
    }
}

/// Builds the programs and puts them into a folder, without their debug information: an image of 100 MB of it helps nobody.
fn compile(images: &[ImageSource], release: bool, to: &Path) -> Result<()> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(workspace()?).args(["build", "--message-format=json-render-diagnostics"]);
    if release {
        cargo.arg("--release");
    }
    for image in images {
        cargo.args(["--package", image.package, "--bin", image.name]);
    }
    let built = cargo.stderr(Stdio::inherit()).output().context("cannot start cargo")?;
    if !built.status.success() {
        bail!("cargo could not build the programs ({})", built.status);
    }
    // One JSON object per line; an artifact that is a program names its file (cargo's "External tools" page).
    let programs: Vec<PathBuf> = String::from_utf8_lossy(&built.stdout)
        .lines()
        .filter_map(|line| {
            serde_json::from_str::<serde_json::Value>(line)
                .ok()?
                .get("executable")?
                .as_str()
                .map(PathBuf::from)
        })
        .collect();
    for image in images {
        let program = programs.iter().find(|program| program.ends_with(image.name));
        let program = program.with_context(|| format!("cargo built no program {}", image.name))?;
        run(Command::new("strip").arg("-o").arg(to.join(image.name)).arg(program))?;
    }
    Ok(())
}

/// Hands a folder in OCI layout to the node's containerd.
fn import(node: &Node, layout: &Path) -> Result<()> {
    let archive = layout.with_extension("tar");
    run(Command::new("tar")
        .arg("--create")
        .arg("--file")
        .arg(&archive)
        .arg("--directory")
        .arg(layout)
        .arg("."))?;
    run(node.ctr()?.args(["images", "import", "-"]).stdin(File::open(&archive)?))
}

/// The root of the checkout: two folders above this crate.
fn workspace() -> Result<PathBuf> {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .map(Path::to_owned)
        .context("this crate lies in tests/node")
}
