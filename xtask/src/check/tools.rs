//! Rules that stock tools hold.

use anyhow::Result;

use super::Finding;
use crate::command;
use crate::workspace::Workspace;

/// `cargo metadata --locked` refuses a lock file that does not fit.
pub fn lock(workspace: &Workspace) -> Result<Vec<Finding>> {
    workspace.metadata().map(|_| Vec::new())
}

pub fn fmt(_: &Workspace) -> Result<Vec<Finding>> {
    passes(&["fmt", "--all", "--", "--check", "--files-with-diff"], "format these with `cargo fmt --all`")
}

pub fn clippy(_: &Workspace) -> Result<Vec<Finding>> {
    passes(
        &["clippy", "--locked", "--workspace", "--all-targets", "--", "--deny", "warnings"],
        "see the messages of clippy above",
    )
}

fn passes(arguments: &[&str], advice: &str) -> Result<Vec<Finding>> {
    let status = command::cargo(arguments).status()?;
    let place = format!("cargo {}", arguments.join(" "));
    Ok(if status.success() { Vec::new() } else { vec![Finding::new(place, advice)] })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tool_that_fails_is_a_finding_with_its_command() {
        let findings = passes(&["no-such-subcommand-of-cargo"], "advice").unwrap();
        assert_eq!(findings, [Finding::new("cargo no-such-subcommand-of-cargo", "advice")]);
        assert_eq!(passes(&["--version"], "advice").unwrap(), []);
    }
}
