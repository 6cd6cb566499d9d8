//! Hands the commit and its date to `krt version`, when this is a checkout.
//!
//! `KRUNTIMES_COMMIT` and `KRUNTIMES_BUILD_DATE`, set by whoever packages, win. Both are of the commit and not of the
//! build: the same sources give the same program. It runs again only when HEAD has moved.

use std::path::Path;
use std::process::Command;

fn main() {
    for (variable, format) in [("KRUNTIMES_COMMIT", "%h"), ("KRUNTIMES_BUILD_DATE", "%cd")] {
        println!("cargo:rerun-if-env-changed={variable}");
        let given = std::env::var(variable).ok().filter(|value| !value.is_empty());
        if let Some(value) = given.or_else(|| of_commit(format)) {
            println!("cargo:rustc-env={variable}={value}");
        }
    }
    println!("cargo:rerun-if-changed=build.rs");
    // A file that does not exist would count as changed each time.
    let moved = ["logs/HEAD", "HEAD"].iter().filter_map(|file| git(&["rev-parse", "--git-path", file]));
    if let Some(file) = moved.into_iter().find(|file| Path::new(file).exists()) {
        println!("cargo:rerun-if-changed={file}");
    }
}

fn of_commit(format: &str) -> Option<String> {
    // Sources unpacked inside of somebody else's checkout are not of its commit.
    let top = git(&["rev-parse", "--show-toplevel"])?;
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).parent()?.canonicalize().ok()?;
    if Path::new(&top).canonicalize().ok()? != here {
        return None;
    }
    git(&["log", "-1", "--date=format-local:%Y-%m-%dT%H:%M:%SZ", &format!("--format={format}")])
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).env("TZ", "UTC").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}
