//! `cargo xtask bench`: builds what is measured with the release profile, then the measuring client (`bench/`).

mod kit;

use std::process::{Command, ExitCode};

use anyhow::Result;

use crate::command;
use crate::workspace::Workspace;

#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub struct Args {
    /// `local|node|scale|kit [--json FILE] [--runs N]`; `cargo xtask bench --help` says more
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<String>,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    if let Some(rest) =
        args.arguments.split_first().filter(|(first, _)| *first == "kit").map(|(_, rest)| rest)
    {
        return kit::run(rest).map(|()| ExitCode::SUCCESS);
    }
    // As a person builds what is shipped: other selections of packages would build their dependencies once more.
    command::shown(command::cargo(&["build", "--locked", "--release", "--workspace", "--bins"]))?;
    // The program itself: cargo would build its dependencies once more for it alone.
    let program = Workspace::open()?.metadata()?.target_directory.join("release/kruntimes-bench");
    let status = Command::new(program).args(&args.arguments).status()?;
    Ok(ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)))
}
