//! `krt`: the command line of kruntimes.
//!
//! Owns the commands and flags ([`cli`]), what they print ([`render`]), the exit
//! codes ([`exit`]) and how a person's terminal follows a Run ([`attach`]). Comes
//! in: arguments, a kubeconfig or the local platform, a Kubernetes API. Goes out:
//! objects for the API, data on standard output and everything else on standard
//! error. Must always hold: nothing is polled (waiting is watching), every flag is
//! checked before the first request, and a Run's own exit code is passed on.

pub mod attach;
pub mod cli;
mod commands;
mod doctor;
pub mod error;
pub mod exit;
pub mod names;
pub mod preflight;
pub mod render;
mod script;
pub mod session;
mod spec;
mod target;
pub mod term;
mod trace;
pub mod values;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;

use crate::cli::Cli;
use crate::error::Error;
use crate::term::Terminal;

/// Runs the program with `arguments` (the first is its name) and says with which code it ends.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    // The local platform starts containers through its own program.
    #[cfg(feature = "local")]
    kruntimes_local::maybe_container_init();
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(refusal) => {
            // Help and version are answers; anything else is a mistake in the arguments.
            let code = if refusal.use_stderr() { exit::FAILED } else { exit::OK };
            drop(refusal.print());
            return ExitCode::from(code);
        }
    };
    let terminal = Terminal::new(cli.color);
    match run(cli, &terminal) {
        Ok(code) => ExitCode::from(code),
        Err(Error::ClosedPipe) => ExitCode::from(exit::CLOSED_PIPE),
        Err(error) => {
            terminal.error(&error);
            ExitCode::from(error.exit_code())
        }
    }
}

fn run(cli: Cli, terminal: &Terminal) -> Result<u8, Error> {
    let mut builder = match cli.command.needs_threads() {
        true => tokio::runtime::Builder::new_multi_thread(),
        false => tokio::runtime::Builder::new_current_thread(),
    };
    let runtime = builder.enable_all().build().map_err(|source| Error::io("start", source))?;
    let code = runtime.block_on(commands::dispatch(cli, terminal));
    // A read from a terminal or pipe that nobody ends must not keep the program alive.
    runtime.shutdown_background();
    code
}
