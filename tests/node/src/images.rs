//! The images of the project, made from its own `images/Dockerfile` without a registry and without a daemon.
//!
//! The base image is a Debian made once into the cache by mmdebstrap and given to the Dockerfile as `BASE`; buildah makes one image
//! per target of the Dockerfile; all of them travel in one archive in OCI layout, so that the shared base is imported once.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use crate::components::PAUSE_IMAGE;
use crate::go::{cache_folder, ensure_helper};
use crate::host::can_overlay;
use crate::node::Node;
use crate::packages;
use crate::process::{run, text, write};

/// Every program that has an image: the name is also that of the Dockerfile's target and of the image.
pub const IMAGES: [&str; 6] = ["scheduler", "controller", "runtimed", "bash-server", "python-server", "krt"];

/// What the base image holds beside Debian's minimum; the Dockerfile installs what a base lacks, which needs a network.
const BASE_PACKAGES: &str = "bash,ca-certificates,git,openssh-client,python3";

/// How the names of work folders begin.
const WORK: &str = "work-";

/// The name by which a loaded image is known in the node, for a program's name.
pub fn image_name(program: &str) -> String {
    format!("localhost/kruntimes/{program}:dev")
}

/// Where the programs of the images come from.
#[derive(Clone, Debug)]
pub enum Programs {
    /// Built by cargo, with its development profile.
    Dev,
    /// Built by cargo, with its release profile.
    Release,
    /// Taken as they are from a folder.
    Folder(PathBuf),
}

/// Builds the images of the named programs, or of all, and imports them into the node.
///
/// # Errors
/// An unknown name; missing programs, Debian packages or rights; what cargo, buildah or containerd refused.
pub fn load(node: &Node, names: &[String], programs: &Programs) -> Result<()> {
    let started = Instant::now();
    if let Some(unknown) = names.iter().find(|&name| !IMAGES.contains(&name.as_str())) {
        bail!("no image is called {unknown:?}: there are {}", IMAGES.join(", "));
    }
    let wanted: Vec<&str> = IMAGES
        .into_iter()
        .filter(|image| names.is_empty() || names.iter().any(|name| name == image))
        .collect();
    let buildah = Buildah::new()?;
    let base = buildah.ensure_base()?;
    let work = buildah.work_folder()?;
    let binaries = work.path().join("binaries");
    fs::create_dir(&binaries)?;
    collect(&wanted, programs, &binaries)?;
    let mut archive = Archive::new(work.path().join("archive"))?;
    for image in &wanted {
        let name = image_name(image);
        run(buildah
            .command("build")
            .args([
                "--layers=false",
                "--build-arg",
                &format!("BASE={base}"),
                "--target",
                image,
                "--tag",
                &name,
                "--file",
            ])
            .arg(workspace()?.join("images/Dockerfile"))
            .arg(&binaries))?;
        let pushed = work.path().join(image);
        buildah.push(&name, &format!("dir:{}", pushed.display()))?;
        archive.add(&pushed, &name)?;
        // Only the base is worth keeping: the rest is made again in a moment.
        run(buildah.command("rmi").arg(&name))?;
    }
    archive.import(node)?;
    eprintln!("loaded after {:.1} s:", started.elapsed().as_secs_f64());
    for image in wanted {
        println!("{}", image_name(image));
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
    let container = buildah.empty_container()?;
    run(buildah.command("add").args(["--quiet", &container]).arg(program).arg("/pause"))?;
    run(buildah.command("config").args([
        "--entrypoint",
        r#"["/pause"]"#,
        "--user",
        "65535:65535",
        &container,
    ]))?;
    run(buildah.command("commit").args(["--rm", "--quiet", &container, PAUSE_IMAGE]))?;
    let work = buildah.work_folder()?;
    let new = work.path().join("pause.tar");
    buildah.push(PAUSE_IMAGE, &format!("oci-archive:{}:{PAUSE_IMAGE}", new.display()))?;
    fs::rename(&new, &archive).context("cannot write into the cache")?;
    Ok(archive)
}

/// buildah with storage of its own in the cache. One at a time.
struct Buildah {
    folder: PathBuf,
    driver: &'static str,
    _lock: File,
}

impl Buildah {
    fn new() -> Result<Self> {
        packages::ensure(packages::IMAGES)?;
        let folder = cache_folder()?.join("images");
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let lock = File::create(folder.join("lock"))?;
        lock.lock().context("cannot lock the cache of images")?;
        // What one that was killed left behind.
        for entry in fs::read_dir(&folder)?.flatten() {
            if entry.file_name().as_encoded_bytes().starts_with(WORK.as_bytes()) {
                fs::remove_dir_all(entry.path())?;
            }
        }
        let driver = if can_overlay(&folder)? { "overlay" } else { "vfs" };
        Ok(Self { folder, driver, _lock: lock })
    }

    /// A folder for one piece of work, removed with the value.
    fn work_folder(&self) -> Result<TempDir> {
        tempfile::Builder::new()
            .prefix(WORK)
            .tempdir_in(&self.folder)
            .context("cannot make a folder in the cache")
    }

    fn command(&self, subcommand: &str) -> Command {
        let storage = |name: &str| format!("--{name}={}", self.folder.join(name).display());
        let driver = format!("--storage-driver={}", self.driver);
        let mut command = Command::new("buildah");
        // chroot: no container runtime and no network of its own for the RUN lines.
        command.env("BUILDAH_ISOLATION", "chroot").args([
            storage("root"),
            storage("runroot"),
            driver,
            subcommand.to_owned(),
        ]);
        command
    }

    fn empty_container(&self) -> Result<String> {
        text(self.command("from").args(["--quiet", "scratch"]))
    }

    fn push(&self, image: &str, to: &str) -> Result<()> {
        run(self.command("push").args(["--quiet", image, to]))
    }

    /// The name of the base image, which is made if it is not there. The name follows from what is in it.
    fn ensure_base(&self) -> Result<String> {
        let release = fs::read_to_string("/etc/os-release")?;
        let suite =
            release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME=")).unwrap_or("bookworm");
        let tag: String =
            Sha256::digest(BASE_PACKAGES).iter().take(6).map(|byte| format!("{byte:02x}")).collect();
        let image = format!("localhost/base:{suite}-{tag}");
        if self.command("inspect").args(["--type=image", &image]).output()?.status.success() {
            return Ok(image);
        }
        eprintln!("making a base image of Debian {suite} (about 1 min, once)");
        let work = self.work_folder()?;
        let tar = work.path().join("base.tar");
        run(Command::new("mmdebstrap")
            .args(["--variant=minbase", "--include", BASE_PACKAGES])
            .args([
                "--dpkgopt=path-exclude=/usr/share/doc/*",
                "--dpkgopt=path-exclude=/usr/share/man/*",
                "--dpkgopt=path-exclude=/usr/share/locale/*",
            ])
            .arg(suite)
            .arg(&tar))?;
        let container = self.empty_container()?;
        run(self.command("add").args(["--quiet", &container]).arg(&tar).arg("/"))?;
        run(self.command("commit").args(["--rm", "--quiet", &container, &image]))?;
        Ok(image)
    }
}

/// Puts the programs into a folder, without their debug information: an image of 100 MB of it helps nobody.
fn collect(images: &[&str], programs: &Programs, to: &Path) -> Result<()> {
    let files = match programs {
        Programs::Folder(folder) => images.iter().map(|image| folder.join(image)).collect(),
        Programs::Dev => compile(false)?,
        Programs::Release => compile(true)?,
    };
    for image in images {
        let program = files.iter().find(|file| file.ends_with(image));
        let program = program.with_context(|| format!("cargo built no program {image}"))?;
        run(Command::new("strip").arg("-o").arg(to.join(image)).arg(program))?;
    }
    Ok(())
}

/// Builds the selections that tests and benchmarks build (others would have the dependencies built once more), and says where
/// the programs are.
fn compile(release: bool) -> Result<Vec<PathBuf>> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(workspace()?).args([
        "build",
        "--locked",
        "--workspace",
        "--bins",
        "--message-format=json-render-diagnostics",
    ]);
    cargo.arg(if release { "--release" } else { "--tests" });
    let built = cargo.stderr(Stdio::inherit()).output().context("cannot start cargo")?;
    if !built.status.success() {
        bail!("cargo could not build the programs ({})", built.status);
    }
    // One JSON object per line; an artifact that is a program names its file (cargo's "External tools" page).
    Ok(String::from_utf8_lossy(&built.stdout)
        .lines()
        .filter_map(|line| {
            serde_json::from_str::<serde_json::Value>(line)
                .ok()?
                .get("executable")?
                .as_str()
                .map(PathBuf::from)
        })
        .collect())
}

/// Several images in OCI image layout (the image-spec's `image-layout.md`): layers that they share are there once. buildah's own
/// `oci:` would compress the base anew for each, which takes longer than all the rest.
struct Archive {
    folder: PathBuf,
    manifests: Vec<serde_json::Value>,
}

impl Archive {
    fn new(folder: PathBuf) -> Result<Self> {
        fs::create_dir_all(folder.join("blobs/sha256"))?;
        Ok(Self { folder, manifests: Vec::new() })
    }

    /// Takes over an image from a folder in buildah's `dir:` form: `manifest.json`, `version`, and each blob by its digest.
    fn add(&mut self, image: &Path, name: &str) -> Result<()> {
        let blobs = self.folder.join("blobs/sha256");
        let bytes = fs::read(image.join("manifest.json"))?;
        let manifest: serde_json::Value = serde_json::from_slice(&bytes)?;
        let digest = hex(&Sha256::digest(&bytes));
        self.manifests.push(json!({
            "mediaType": manifest["mediaType"],
            "digest": format!("sha256:{digest}"),
            "size": bytes.len(),
            "annotations": {"io.containerd.image.name": name},
        }));
        write(&blobs.join(digest), bytes)?;
        for entry in fs::read_dir(image)? {
            let entry = entry?;
            if entry.file_name() != "manifest.json" && entry.file_name() != "version" {
                fs::rename(entry.path(), blobs.join(entry.file_name()))?;
            }
        }
        Ok(())
    }

    /// Hands everything to the node's containerd.
    fn import(self, node: &Node) -> Result<()> {
        let index = json!({"schemaVersion": 2, "manifests": self.manifests});
        write(&self.folder.join("index.json"), serde_json::to_vec(&index)?)?;
        write(&self.folder.join("oci-layout"), r#"{"imageLayoutVersion": "1.0.0"}"#)?;
        let tar = self.folder.with_extension("tar");
        run(Command::new("tar")
            .arg("--create")
            .arg("--file")
            .arg(&tar)
            .arg("--directory")
            .arg(&self.folder)
            .arg("."))?;
        run(node.ctr()?.args(["images", "import", "-"]).stdin(File::open(&tar)?))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The root of the checkout: two folders above this crate.
fn workspace() -> Result<PathBuf> {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .map(Path::to_owned)
        .context("this crate lies in tests/node")
}
