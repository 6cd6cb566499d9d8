//! Measures the platform beside a bare client, in one run on one machine.
//!
//! Owns what is measured and how it is written down. Comes in: release builds of the platform's programs. Goes out: one
//! flat JSON object of numbers whose names stay, and a table for people. Must always hold: a figure stands beside what it
//! is compared with, taken in the same run against the same API; started processes and accounting are in the figures.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for people")]

mod bare;
mod cli;
mod figures;
mod local;
mod machine;
mod measure;
mod node;
mod platform;
mod processes;
mod requests;
mod runs;
mod scale;
mod watch;

use anyhow::bail;
use clap::Parser as _;
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    // What was started ends when it is dropped, so a signal must not end this program before.
    tokio::select! {
        measured = cli::Cli::parse().run() => measured,
        _ = terminate.recv() => bail!("told to end before it was done"),
        _ = tokio::signal::ctrl_c() => bail!("interrupted before it was done"),
    }
}
