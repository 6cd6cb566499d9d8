//! Generated files: `xtask/gen` makes them, this writes them.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};

use crate::command;
use crate::workspace::Workspace;

/// Every generated file: path relative to the root, and its text.
pub fn files(workspace: &Workspace) -> Result<BTreeMap<String, String>> {
    let mut generator = command::cargo(&["run", "--quiet", "--locked", "--package", "kruntimes-gen"]);
    generator.current_dir(&workspace.root);
    serde_json::from_str(&command::output(generator)?).context("the generator printed something unexpected")
}

/// Writes those that differ.
pub fn run(workspace: &Workspace) -> Result<()> {
    let mut written = 0;
    let files = files(workspace)?;
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
