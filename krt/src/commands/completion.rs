//! `krt completion`: scripts for shells.

use clap::Args;
use clap_complete::Shell;

use crate::error::Error;
use crate::term::Terminal;
use crate::{cli, exit};

/// Print the completion script for a shell.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    source <(krt completion bash)\n  \
    krt completion zsh > \"${fpath[1]}/_krt\"\n  \
    krt completion fish > ~/.config/fish/completions/krt.fish")]
pub(crate) struct CompletionArgs {
    /// Shell.
    #[arg(value_name = "SHELL", value_enum)]
    shell: Shell,
}

pub(crate) fn run(args: CompletionArgs, terminal: &Terminal) -> Result<u8, Error> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut cli::command(), "krt", &mut script);
    terminal.bytes(false, &script)?;
    Ok(exit::OK)
}
