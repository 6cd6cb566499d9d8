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

use clap::Parser as _;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    cli::Cli::parse().run().await
}
