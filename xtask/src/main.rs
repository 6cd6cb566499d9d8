//! `cargo xtask`: the one door to this repository.
//!
//! Owns the recipes that people and CI run, and the rules that hold for the sources. Comes in: the checkout and
//! `cargo metadata`. Goes out: exit codes, text for people, and the generated files. Must always hold: every CI
//! step is one of these recipes, and a rule is a pure function over its inputs with a test that breaks it.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for people")]

mod bench;
mod check;
mod cli;
mod command;
mod generate;
mod quickstart;
mod test;
mod workspace;

fn main() -> std::process::ExitCode {
    match cli::run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}
