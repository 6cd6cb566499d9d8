//! Generated files: `xtask/gen` makes them, this writes them.

use std::collections::BTreeMap;
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::command;
use crate::workspace::Workspace;

/// Every generated file, path relative to the root and text, from the generator that was built with everything else.
pub fn files(workspace: &Workspace) -> Result<BTreeMap<String, String>> {
    command::build()?;
    let generator = workspace.metadata()?.target_directory.join("debug/kruntimes-gen");
    read(Command::new(generator))
}

fn read(generator: Command) -> Result<BTreeMap<String, String>> {
    serde_json::from_str(&command::output(generator)?).context("the generator printed something unexpected")
}

/// Writes those that differ.
pub fn run(workspace: &Workspace) -> Result<()> {
    let mut written = 0;
    // Alone it is built faster than with everything else.
    let generator = command::cargo(&["run", "--locked", "--package", "kruntimes-gen"]);
    let files = read(generator)?;
    for (path, text) in &files {
        if workspace.read(path) != *text {
            let at = workspace.root.join(path);
            if let Some(folder) = at.parent() {
                std::fs::create_dir_all(folder)?;
            }
            std::fs::write(&at, text).with_context(|| format!("cannot write {path}"))?;
            println!("wrote {path}");
            written += 1;
        }
    }
    println!("gen: {written} of {} files changed", files.len());
    Ok(())
}
