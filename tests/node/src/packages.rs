//! The Debian packages that a node and the making of images need: installed only when missing, and said so.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use crate::process::{on_path, run};

/// A file that proves the package, by name on the search path or by its place, and the package that brings it.
type Need = (&'static str, &'static str);

pub const NODE: &[Need] = &[
    ("containerd", "containerd"),
    ("runc", "runc"),
    ("/usr/lib/cni/ptp", "containernetworking-plugins"),
    ("nft", "nftables"),
    ("iptables", "iptables"),
    ("conntrack", "conntrack"),
    ("ip", "iproute2"),
    ("nsenter", "util-linux"),
    ("mount", "mount"),
];

pub const IMAGES: &[Need] =
    &[("buildah", "buildah"), ("mmdebstrap", "mmdebstrap"), ("tar", "tar"), ("strip", "binutils")];

/// Installs what is missing.
pub fn ensure(needs: &[Need]) -> Result<()> {
    let missing: Vec<&str> =
        needs.iter().filter(|(file, _)| !is_there(file)).map(|(_, package)| *package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    if !on_path("apt-get") || !rustix::process::geteuid().is_root() {
        bail!(
            "these Debian packages are missing: {list}. Install them (`apt-get install --no-install-recommends {list}`) and try again"
        );
    }
    eprintln!("installing Debian packages: {list}");
    run(Command::new("apt-get").args(["update", "--quiet"]))?;
    run(Command::new("apt-get")
        .env("DEBIAN_FRONTEND", "noninteractive")
        .args(["install", "--quiet", "--yes", "--no-install-recommends"])
        .args(missing))
}

fn is_there(file: &str) -> bool {
    let administrators = ["/usr/sbin", "/sbin"];
    match file.starts_with('/') {
        true => Path::new(file).exists(),
        false => on_path(file) || administrators.iter().any(|folder| Path::new(folder).join(file).exists()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_not_installed() {
        assert!(is_there("sh") && is_there("/bin/sh"));
        assert!(!is_there("no-such-program") && !is_there("/usr/lib/no-such-file"));
        ensure(&[("sh", "no-such-package")]).unwrap();
    }
}
