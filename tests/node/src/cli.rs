//! The command line of `cargo xtask node`.

use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};

use crate::images::Programs;
use crate::layout::Mode;
use crate::node::{Node, default_folder};
use crate::{go, images};

/// A real Kubernetes on this machine, for the tests.
#[derive(Debug, clap::Args)]
pub struct NodeArgs {
    /// Where the node keeps its files; one node per folder [default: run/node in the cache]
    #[arg(long, global = true, value_name = "FOLDER")]
    state_dir: Option<PathBuf>,
    #[command(subcommand)]
    command: NodeCommand,
}

#[derive(Debug, clap::Subcommand)]
pub enum NodeCommand {
    /// Build the Kubernetes programs into the cache and do nothing else
    Build,
    /// Build the stock kubectl alone and print its path
    Kubectl,
    /// Start the node and wait until it is ready; prints the path of its kubeconfig
    Up {
        /// Only etcd and the API server: no Pods run, no root is needed
        #[arg(long)]
        api_only: bool,
        /// Another version of Kubernetes than the tests' own, such as 1.32.13; built once, for an API server alone
        #[arg(long, value_name = "VERSION", requires = "api_only")]
        kubernetes: Option<String>,
    },
    /// End the node and remove everything of it
    Down,
    /// Run a command inside the node, with KUBECONFIG set and kubectl and helm on the path
    Exec {
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
        command: Vec<String>,
    },
    /// Build the project's images from its Dockerfile and import them into the node
    Load {
        /// Programs to load [default: all]
        names: Vec<String>,
        /// Binaries of the release profile instead of the development profile
        #[arg(long)]
        release: bool,
        /// Take the programs from this folder instead of building them
        #[arg(long, value_name = "FOLDER", conflicts_with = "release")]
        programs: Option<PathBuf>,
    },
    /// Show the node's components; fails unless all are running and the API server is ready
    Status,
    /// Kill one component
    Stop { component: String },
    /// Start one component that was stopped
    Start { component: String },
}

/// Carries out a command. Data goes to stdout, the rest to stderr.
pub fn main(args: NodeArgs) -> Result<()> {
    let folder = match args.state_dir {
        Some(folder) => folder,
        None => default_folder()?,
    };
    let open = || Node::open(&folder)?.filter(Node::is_alive).context("no node is up: start one with `up`");
    match args.command {
        NodeCommand::Build => go::ensure_all().map(drop),
        NodeCommand::Kubectl => {
            println!("{}", go::ensure_kubectl()?.display());
            Ok(())
        }
        NodeCommand::Up { kubernetes: Some(version), .. } => up(|| Node::up_api(&folder, &version)),
        NodeCommand::Up { api_only: true, .. } => up(|| Node::up(&folder, Mode::Api)),
        NodeCommand::Up { .. } => up(|| Node::up(&folder, Mode::Full)),
        NodeCommand::Down => match Node::open(&folder)? {
            Some(node) => node.down(),
            None => {
                eprintln!("no node is up");
                Ok(())
            }
        },
        NodeCommand::Exec { command } => {
            let mut inside = open()?.command(&command[0])?;
            // Replaces this process: the command's exit code and signals are ours.
            Err(inside.args(&command[1..]).exec()).with_context(|| format!("cannot run {}", command[0]))
        }
        NodeCommand::Load { names, release, programs } => {
            let programs = match programs {
                Some(folder) => Programs::Folder(folder),
                None if release => Programs::Release,
                None => Programs::Dev,
            };
            images::load(&open()?, &names, &programs)
        }
        NodeCommand::Status => status(&open()?),
        NodeCommand::Stop { component } => open()?.stop(&component),
        NodeCommand::Start { component } => open()?.start(&component),
    }
}

fn up(start: impl FnOnce() -> Result<Node>) -> Result<()> {
    let started = Instant::now();
    let node = start()?;
    eprintln!(
        "up after {:.1} s; its kubeconfig works on this machine and inside the node:",
        started.elapsed().as_secs_f64()
    );
    println!("{}", node.kubeconfig().display());
    Ok(())
}

fn status(node: &Node) -> Result<()> {
    let components = node.components();
    for (name, process) in &components {
        match process {
            Some(process) => println!("{name:24} running   pid {}", process.pid),
            None => println!("{name:24} stopped"),
        }
    }
    println!("{:24} {}", "kubeconfig", node.kubeconfig().display());
    println!("{:24} {}", "logs", node.logs().display());
    if components.iter().any(|(_, process)| process.is_none()) {
        bail!("not every component is running");
    }
    if !node.is_ready() {
        bail!("the API server is not ready");
    }
    if node.mode() == Mode::Full {
        node.kubectl()?.args(["get", "nodes,pods", "--all-namespaces"]).status()?;
    }
    Ok(())
}
