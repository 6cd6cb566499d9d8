//! The tests' virtual machine as a program of its own; `cargo xtask vm` is the same thing. Inside the machine it is `/init`.
#![allow(clippy::print_stderr, reason = "a program for people")]

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    if std::process::id() == 1 {
        return kruntimes_vm::guest_main();
    }
    match kruntimes_vm::main(&kruntimes_vm::Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
