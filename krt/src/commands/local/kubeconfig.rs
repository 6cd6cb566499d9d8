//! `krt local kubeconfig`: how other programs reach the platform.

use std::path::PathBuf;

use clap::Args;

use crate::error::Error;
use crate::exit;
use crate::term::Terminal;

/// Print the path of the local platform's kubeconfig.
#[derive(Debug, Args)]
pub(crate) struct KubeconfigArgs {
    /// Print the file itself; it holds a token.
    #[arg(long)]
    print: bool,
}

pub(crate) fn run(args: KubeconfigArgs, data_dir: PathBuf, terminal: &Terminal) -> Result<u8, Error> {
    let path = data_dir.join("kubeconfig");
    let text = std::fs::read_to_string(&path).map_err(|error| {
        let message = format!("there is no kubeconfig in {}: {error}", data_dir.display());
        Error::failed(message, "`krt local up --detach` starts the platform, which writes it")
    })?;
    terminal.data(&if args.print { text } else { format!("{}\n", path.display()) })?;
    Ok(exit::OK)
}
