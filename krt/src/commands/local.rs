//! `krt local`: the platform on one machine, for trying things and for tests.

mod down;
mod kubeconfig;
mod status;
mod up;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use kruntimes_local::Status;

use crate::error::Error;
use crate::term::Terminal;

/// Environment variable with the folder of the local platform.
const DATA_DIR_ENV: &str = "KRT_DATA_DIR";

/// Run the whole platform on this machine: API, scheduler, controller and Pods as processes.
///
/// It serves this machine only, and is no production control plane.
#[derive(Debug, Args)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct LocalArgs {
    /// Folder of the platform; default $XDG_DATA_HOME/kruntimes/local.
    #[arg(long, global = true, value_name = "DIR", env = DATA_DIR_ENV, hide_env_values = true)]
    data_dir: Option<PathBuf>,
    #[command(subcommand)]
    command: LocalCommand,
}

#[derive(Debug, Subcommand)]
enum LocalCommand {
    Up(up::UpArgs),
    Down(down::DownArgs),
    Status(status::StatusArgs),
    Kubeconfig(kubeconfig::KubeconfigArgs),
}

impl LocalArgs {
    /// Whether this process becomes the platform.
    pub fn serves(&self) -> bool {
        matches!(&self.command, LocalCommand::Up(args) if !args.detach)
    }
}

/// The folder without a flag: `$KRT_DATA_DIR`, else below `$XDG_DATA_HOME` or `~/.local/share`.
pub(crate) fn default_data_dir() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(dir) = set(DATA_DIR_ENV) {
        return Some(dir);
    }
    let share = set("XDG_DATA_HOME").or_else(|| set("HOME").map(|home| home.join(".local/share")))?;
    Some(share.join("kruntimes/local"))
}

pub(crate) async fn run(args: LocalArgs, terminal: &Terminal) -> Result<u8, Error> {
    let missing = || Error::flag("--data-dir", "neither $XDG_DATA_HOME nor $HOME is set: name a folder");
    let data_dir = args.data_dir.or_else(default_data_dir).ok_or_else(missing)?;
    // The containers of the platform have other working directories.
    let data_dir = std::path::absolute(&data_dir).map_err(|e| Error::io("find the data folder", e))?;
    match args.command {
        LocalCommand::Up(args) => up::run(args, data_dir, terminal).await,
        LocalCommand::Down(args) => down::run(args, data_dir, terminal).await,
        LocalCommand::Status(args) => status::run(args, data_dir, terminal).await,
        LocalCommand::Kubeconfig(args) => kubeconfig::run(args, data_dir, terminal),
    }
}

/// How a shell is told of the platform.
fn export_line(status: &Status) -> String {
    format!("export KUBECONFIG={}", crate::render::run::arguments(&[status.kubeconfig.display().to_string()]))
}
