//! The command line.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::workspace::Workspace;
use crate::{bench, check, command, generate, quickstart, test};

/// Build, try, test, check and measure this repository.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 100, after_help = check::help())]
struct Cli {
    #[command(subcommand)]
    recipe: Recipe,
}

#[derive(Debug, Subcommand)]
enum Recipe {
    /// Build everything, start the local platform, and run a real job on it
    Quickstart(quickstart::Args),
    /// Run the tests, with all set-up they need
    Test(test::Args),
    /// Hold the rules of the repository; each can be named, or run alone as `cargo xtask RULE`
    Check {
        /// Rules to hold [default: all]
        rules: Vec<String>,
    },
    /// Write the generated files: CRDs of the charts, reference pages
    Gen,
    /// Measure
    Bench(bench::Args),
    /// A real Kubernetes on this machine, for the tests; `cargo xtask node help` says more
    #[command(disable_help_flag = true)]
    Node {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// A virtual machine with cgroup v2, for the tests; `cargo xtask vm help` says more
    #[command(disable_help_flag = true)]
    Vm {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    #[command(external_subcommand)]
    Rule(Vec<String>),
}

/// Runs the recipe that the arguments name.
pub fn run() -> Result<ExitCode> {
    let cli = Cli::parse();
    let workspace = Workspace::open()?;
    match cli.recipe {
        Recipe::Quickstart(args) => quickstart::run(&workspace, &args).map(|()| ExitCode::SUCCESS),
        Recipe::Test(args) => test::run(&workspace, &args),
        Recipe::Check { rules } => check::run(&workspace, &rules),
        Recipe::Gen => generate::run(&workspace).map(|()| ExitCode::SUCCESS),
        Recipe::Bench(args) => bench::run(&args),
        Recipe::Node { arguments } => program("kruntimes-node", "node", &arguments),
        Recipe::Vm { arguments } => program("kruntimes-vm", "vm", &arguments),
        Recipe::Rule(words) => check::run(&workspace, &words),
    }
}

/// A tool of the tests is a program of its own, built when it is asked for; its exit code is ours.
fn program(package: &str, name: &str, arguments: &[String]) -> Result<ExitCode> {
    let mut program = command::cargo(&["run", "--quiet", "--package", package, "--bin", name, "--"]);
    let status = program.args(arguments).status()?;
    Ok(ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)))
}
