//! etcd and kube-apiserver of another Kubernetes version, built from their Go modules once, into the cache.
//!
//! The module is made here, from that version's own `go.mod`: a program cannot take Kubernetes as a dependency without
//! repeating its replacements, which are folders of its own repository and elsewhere the modules of the same version.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::go::{self, Program, cache_folder};
use crate::process::{text, write};

/// The components that are built.
const COMPONENTS: [&str; 2] = ["etcd", "kube-apiserver"];

/// Go adds to its own `go.mod`: what was made here is kept beside it, and tells that the module is complete.
pub(crate) const MADE: &str = "go.mod.made";

const KUBERNETES: &str = "k8s.io/kubernetes";
const ETCD: &str = "go.etcd.io/etcd/server/v3";

const MAIN: &str = r#"// Command api is etcd and kube-apiserver, chosen by the name it is called with.
package main

import (
	"fmt"
	"os"
	"path/filepath"

	"go.etcd.io/etcd/server/v3/etcdmain"
	"k8s.io/component-base/cli"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
)

func main() {
	switch filepath.Base(os.Args[0]) {
	case "etcd":
		etcdmain.Main(os.Args)
	case "kube-apiserver":
		os.Exit(cli.Run(apiserver.NewAPIServerCommand()))
	default:
		fmt.Fprintln(os.Stderr, "link this as etcd or kube-apiserver")
		os.Exit(2)
	}
}
"#;

/// The folder with both programs of a version such as `1.32.13`, built if they are not there. Needs Go and the module proxy.
///
/// # Errors
/// No such version; no Go; what the build said.
pub fn ensure_api_server(version: &str) -> Result<PathBuf> {
    let version = format!("v{}", version.trim_start_matches('v'));
    if Some(version.as_str()) == go::kubernetes_version().ok() {
        return go::ensure_kubernetes();
    }
    let folder = cache_folder()?.join(format!("bin/api-server-{version}"));
    let module = folder.join("module");
    if !module.join(MADE).is_file() {
        make_module(&version, &module)?;
    }
    go::build(&Program {
        what: format!("the API server of Kubernetes {version}"),
        usual_minutes: 5,
        package: ".",
        module: Some(&module),
        flags: go::version_flags(&version)?,
        to: folder.join("api"),
    })?;
    go::link(&folder, "api", &COMPONENTS)?;
    Ok(folder)
}

fn make_module(version: &str, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let theirs = go_mod_of(version)?;
    let ours = go_mod(version, &theirs)?;
    write(&folder.join("main.go"), MAIN)?;
    write(&folder.join("go.mod"), &ours)?;
    write(&folder.join(MADE), &ours)
}

/// That version's own `go.mod`.
fn go_mod_of(version: &str) -> Result<String> {
    let mut download = Command::new("go");
    download.args(["mod", "download", "-json", &format!("{KUBERNETES}@{version}")]);
    // Outside of any module: nothing of ours is asked.
    download.current_dir("/");
    let told = text(&mut download).with_context(|| format!("there is no {KUBERNETES} {version}"))?;
    let told: serde_json::Value = serde_json::from_str(&told).context("go printed something unexpected")?;
    let path = told["GoMod"].as_str().context("go names no go.mod")?;
    fs::read_to_string(path).with_context(|| format!("cannot read {path}"))
}

/// A module that requires Kubernetes, with the modules of its version in place of the folders of its repository.
fn go_mod(version: &str, theirs: &str) -> Result<String> {
    let Some((_, minor)) = version.split_once('.') else { bail!("{version:?} is no version") };
    let staging = format!("v0.{minor}");
    let find = |word: &str| {
        let found = theirs.lines().find_map(|line| line.trim().strip_prefix(word)?.strip_prefix(' '));
        found.and_then(|rest| rest.split(' ').next()).with_context(|| format!("it names no {word}"))
    };
    let mut made = format!(
        "module kruntimes.io/tests/api-server\n\ngo {}\n\nrequire (\n\t{ETCD} {}\n\tk8s.io/component-base {staging}\n\t{KUBERNETES} {version}\n)\n\nreplace (\n",
        find("go")?,
        find(ETCD)?,
    );
    let folders = theirs.lines().filter_map(|line| {
        let (module, to) = line.trim().trim_start_matches("replace ").split_once(" => ")?;
        to.starts_with("./staging/").then_some(module.trim())
    });
    let mut count = 0;
    for module in folders {
        count += 1;
        writeln!(made, "\t{module} => {module} {staging}")?;
    }
    made += ")\n";
    if count == 0 {
        bail!("{KUBERNETES} {version} requires no module of its own repository");
    }
    Ok(made)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_takes_its_facts_from_that_versions_own() {
        let theirs = "module k8s.io/kubernetes\n\ngo 1.23.0\n\nrequire (\n\tgo.etcd.io/etcd/server/v3 v3.5.16 // indirect\n\
            \tk8s.io/api v0.0.0\n)\n\nreplace (\n\tk8s.io/api => ./staging/src/k8s.io/api\n\texample.com/x => ../x\n)\n";
        let made = go_mod("v1.32.13", theirs).unwrap();
        for line in [
            "go 1.23.0",
            "\tgo.etcd.io/etcd/server/v3 v3.5.16",
            "\tk8s.io/kubernetes v1.32.13",
            "\tk8s.io/api => k8s.io/api v0.32.13",
        ] {
            assert!(made.lines().any(|made| made == line), "{line:?} in {made}");
        }
        assert!(!made.contains("example.com"), "{made}");
        assert!(go_mod("v1.32.13", "go 1.23.0\n").is_err());
    }
}
