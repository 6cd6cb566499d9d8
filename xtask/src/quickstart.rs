//! `cargo xtask quickstart`: from a clone to a real job on a local platform.

mod job;
mod table;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};

use crate::command;
use crate::workspace::Workspace;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Folder of the platform [default: kruntimes/quickstart below $XDG_DATA_HOME or ~/.local/share]
    #[arg(long, value_name = "FOLDER")]
    data_dir: Option<PathBuf>,
}

/// Packages whose programs make up a local platform on which all of `examples/` runs.
const PROGRAMS: [&str; 5] = ["krt", "control-plane", "runtimed", "bash-server", "python-server"];
const RUNTIME: &str = "bash";

/// What the quickstart talks to.
pub struct Platform {
    programs: PathBuf,
    data_dir: PathBuf,
}

pub fn run(workspace: &Workspace, args: &Args) -> Result<()> {
    say("1/4", "building krt, the control plane, runtimed and the servers (minutes the first time)");
    let mut build = command::cargo(&["build", "--locked", "--bins"]);
    build.args(PROGRAMS.iter().flat_map(|package| ["--package", package]));
    command::shown(build)?;

    let data_dir = match &args.data_dir {
        Some(folder) => std::path::absolute(folder)?,
        None => default_data_dir()?,
    };
    let platform = Platform { programs: workspace.metadata()?.target_directory.join("debug"), data_dir };
    say("2/4", "the local platform: a small Kubernetes API, the scheduler and the controller as processes");
    platform.start()?;
    say("3/4", "a pool of two warm Pods (examples/runtime-bash.yaml)");
    platform.make_pool()?;
    say("4/4", "the job: 8 Runs at once hash and count the sources of this repository (examples/wordcount)");
    let parts = job::parts(workspace)?;
    let start = Instant::now();
    let results = job::submit(&platform, &parts)?;
    let took = start.elapsed();
    table::print(&results, took);
    job::verify(&parts, &results)?;
    println!("\nthe totals are those of the files here: every Run saw all of its part\n");
    platform.say_what_next();
    Ok(())
}

fn say(step: &str, what: &str) {
    println!("\n[{step}] {what}");
}

fn default_data_dir() -> Result<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = set("XDG_DATA_HOME").or_else(|| set("HOME").map(|home| home.join(".local/share")));
    // A folder of its own: what you keep in your own local platform is left alone.
    Ok(base
        .context("neither XDG_DATA_HOME nor HOME is set: name a folder with --data-dir")?
        .join("kruntimes/quickstart"))
}

impl Platform {
    /// `krt`, told which platform it is about.
    pub fn krt(&self) -> Command {
        let mut krt = Command::new(self.programs.join("krt"));
        krt.env("KRT_DATA_DIR", &self.data_dir).env("KUBECONFIG", self.kubeconfig());
        krt
    }

    fn kubeconfig(&self) -> PathBuf {
        self.data_dir.join("kubeconfig")
    }

    fn start(&self) -> Result<()> {
        let mut status = self.krt();
        status.args(["local", "status"]).stdout(Stdio::null()).stderr(Stdio::null());
        if status.status().context("cannot run krt")?.success() {
            println!(
                "one is up already in {}: it is used again, with the programs that it was started with",
                self.data_dir.display()
            );
            return Ok(());
        }
        let mut up = self.krt();
        up.args(["local", "up", "--detach"]);
        command::shown(up)
            .with_context(|| format!("its logs are in {}", self.data_dir.join("logs").display()))
    }

    fn make_pool(&self) -> Result<()> {
        let mut create = self.krt();
        create.args(["runtime", "create", RUNTIME, "--image", "bash-server:dev", "--replicas", "2"]);
        create.args(["--capacity", "runs=4", "--wait", "--timeout", "60s"]);
        let made = command::shown(create);
        if made.is_err() {
            let mut describe = self.krt();
            describe.args(["runtime", "describe", RUNTIME]);
            // The error is what counts; this only says more about it.
            let _ = describe.status();
        }
        made
    }

    fn say_what_next(&self) {
        let path = |path: &Path| path.display().to_string();
        println!("The platform is still up. To use it from this shell:\n");
        println!("    export PATH=\"{}:$PATH\"", path(&self.programs));
        println!(
            "    export KUBECONFIG=\"{}\" KRT_DATA_DIR=\"{}\"\n",
            path(&self.kubeconfig()),
            path(&self.data_dir)
        );
        println!("    krt run -c 'echo hello from $KRUNTIME_RUN_NAME'   # a Run of your own");
        println!("    krt list                                          # every Run");
        println!("    krt describe RUN                                  # timeline, usage, isolation of one");
        println!("    kubectl apply -f examples/ && kubectl get runs -w # any stock Kubernetes client works");
        println!(
            "    krt local down                                    # stop it; --purge forgets its objects too"
        );
    }
}

/// The words that krt printed on standard output.
fn printed(mut krt: Command, input: &str) -> Result<String> {
    use std::io::Write as _;
    let words = command::words(&krt);
    let mut child = krt
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {words}"))?;
    child.stdin.take().context("krt has no input")?.write_all(input.as_bytes())?;
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("`{words}` ended with {}", output.status);
    }
    Ok(String::from_utf8(output.stdout)?)
}
