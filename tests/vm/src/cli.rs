//! The command line of `cargo xtask vm`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::fetch::{self, which};
use crate::job::Job;
use crate::machine::{Machine, Outcome};

/// A virtual machine with cgroup v2 and all its controllers, for the tests.
#[derive(Debug, clap::Parser)]
#[command(name = "cargo xtask vm", bin_name = "cargo xtask vm", max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    command: VmCommand,
}

#[derive(Debug, clap::Subcommand)]
enum VmCommand {
    /// Fetch what a machine needs and do nothing else
    Fetch,
    /// Run a program of this system in a fresh machine; its output and exit status are ours
    Run(Run),
}

/// Exit status for a program that did not end in time, as timeout(1) has it.
const OUT_OF_TIME: u8 = 124;
/// Exit status for a machine that ended before its program, as `docker run` has it for itself.
const LOST: u8 = 125;

#[derive(Debug, clap::Args)]
struct Run {
    /// A file or folder to take along, at its own path; programs come with their libraries
    #[arg(long, value_name = "PATH")]
    with: Vec<PathBuf>,
    /// A variable of the program's environment
    #[arg(long, value_name = "NAME=VALUE", value_parser = variable)]
    env: Vec<(String, String)>,
    /// Processors of the machine
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    processors: u32,
    /// Memory of the machine, MiB
    #[arg(long, value_name = "MIB", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(128..=65_536))]
    memory: u32,
    /// Disk of the machine, MiB
    #[arg(long, value_name = "MIB", default_value_t = 2048, value_parser = clap::value_parser!(u32).range(256..=1_048_576))]
    disk: u32,
    /// Seconds until the machine is ended
    #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    timeout: u64,
    /// The program, as a path or a name on the search path, and its arguments
    #[arg(required = true, last = true, value_name = "PROGRAM")]
    program: Vec<String>,
}

fn variable(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or_else(|| format!("{text:?} is not NAME=VALUE"))?;
    Ok((name.to_owned(), value.to_owned()))
}

/// Carries out a command. The program's output goes to stdout, everything about the machine to stderr.
pub fn main(cli: &Cli) -> Result<ExitCode> {
    match &cli.command {
        VmCommand::Fetch => {
            match fetch::ensure()? {
                Ok(kernel) => println!("{}", kernel.image.display()),
                Err(unavailable) => println!("skipped: {}", unavailable.0),
            }
            Ok(ExitCode::SUCCESS)
        }
        VmCommand::Run(run) => run.carry_out(),
    }
}

impl Run {
    fn carry_out(&self) -> Result<ExitCode> {
        let (name, arguments) = self.program.split_first().context("no program is named")?;
        let program = if name.contains('/') {
            std::path::absolute(name)?
        } else {
            which(name).with_context(|| format!("no program `{name}`"))?
        };
        let job =
            Job { program, arguments: arguments.to_vec(), environment: self.env.iter().cloned().collect() };
        let machine = Machine {
            processors: self.processors,
            memory_mib: self.memory,
            disk_mib: self.disk,
            limit: Duration::from_secs(self.timeout),
            init: std::env::current_exe().context("no path of this program")?,
            with: self.with.clone(),
        };
        match machine.run(&job, std::io::stdout(), std::io::stderr())? {
            Outcome::Ended(code) => Ok(ExitCode::from(code)),
            Outcome::OutOfTime(said) => {
                eprintln!(
                    "vm: ended after {} s, its program had not; the machine's last words:\n{said}",
                    self.timeout
                );
                Ok(ExitCode::from(OUT_OF_TIME))
            }
            Outcome::Lost(said) => {
                eprintln!("vm: the machine ended before its program; its last words:\n{said}");
                Ok(ExitCode::from(LOST))
            }
            Outcome::Unavailable(unavailable) => {
                println!("skipped: {}", unavailable.0);
                Ok(ExitCode::SUCCESS)
            }
        }
    }
}
