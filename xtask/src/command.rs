//! Running other programs.

use std::ffi::OsString;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

/// `cargo`, without what the `cargo run` around us put into the environment: build scripts watch some of it, and
/// would run again each time somebody changes between `cargo xtask` and plain `cargo`.
pub fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments);
    for (name, _) in std::env::vars_os() {
        if is_set_by_cargo_run(&name) {
            command.env_remove(name);
        }
    }
    command
}

fn is_set_by_cargo_run(name: &OsString) -> bool {
    let name = name.to_string_lossy();
    ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_"]
        .iter()
        .any(|prefix| name.starts_with(prefix))
}

/// Builds every program and every test, in one way: cargo compiles a dependency once for each set of features that a
/// selection of packages asks for, and this one selection serves the rules, the set-up of the tests and the tests.
pub fn build() -> Result<()> {
    shown(cargo(&["build", "--locked", "--workspace", "--bins", "--tests"]))
}

/// Shows the command, runs it with our own streams, and fails when it does.
pub fn shown(mut command: Command) -> Result<()> {
    eprintln!("+ {}", words(&command));
    let status = command.status().with_context(|| format!("cannot run {}", words(&command)))?;
    if !status.success() {
        bail!("`{}` ended with {status}", words(&command));
    }
    Ok(())
}

/// What the command prints; its errors go to ours.
pub fn output(mut command: Command) -> Result<String> {
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot run {}", words(&command)))?;
    if !output.status.success() {
        bail!("`{}` ended with {}", words(&command), output.status);
    }
    String::from_utf8(output.stdout)
        .with_context(|| format!("`{}` printed something else than text", words(&command)))
}

/// The command as a person would type it.
pub fn words(command: &Command) -> String {
    let program = std::path::Path::new(command.get_program()).file_name().unwrap_or(command.get_program());
    let mut text = program.to_string_lossy().into_owned();
    for argument in command.get_args() {
        text.push(' ');
        text.push_str(&argument.to_string_lossy());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cargo_run_sets_is_told_from_what_a_person_sets() {
        assert!(is_set_by_cargo_run(&"CARGO_PKG_VERSION".into()));
        assert!(is_set_by_cargo_run(&"CARGO_MANIFEST_DIR".into()));
        assert!(!is_set_by_cargo_run(&"CARGO_TARGET_DIR".into()));
        assert!(!is_set_by_cargo_run(&"CARGO_HOME".into()));
    }

    #[test]
    fn a_command_is_shown_as_typed() {
        let mut command = Command::new("/usr/bin/git");
        command.args(["ls-files", "-z"]);
        assert_eq!(words(&command), "git ls-files -z");
    }
}
