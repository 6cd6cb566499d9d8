//! The checkout: its files, its sources as syntax trees, its packages.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};
use serde::Deserialize;

use crate::command;

/// The checkout that this program was started in.
pub struct Workspace {
    /// Its root folder.
    pub root: PathBuf,
}

/// A file with text in it; paths are relative to the root, with `/`.
pub struct TextFile {
    pub path: String,
    pub text: String,
}

/// A Rust file, parsed.
pub struct Source {
    pub path: String,
    pub text: String,
    pub tree: syn::File,
}

/// The part of `cargo metadata` that the rules look at.
#[derive(Debug, Deserialize)]
pub struct Metadata {
    pub packages: Vec<Package>,
    pub resolve: Option<Resolve>,
    pub workspace_members: BTreeSet<String>,
    pub target_directory: PathBuf,
}

/// A package, ours or another's.
#[derive(Debug, Deserialize)]
pub struct Package {
    pub id: String,
    pub name: String,
    pub version: String,
    pub license: Option<String>,
    /// None: it lies in this checkout.
    pub source: Option<String>,
    #[serde(default)]
    pub dependencies: Vec<Declared>,
}

/// A line of a package's `[dependencies]` or the like.
#[derive(Debug, Deserialize)]
pub struct Declared {
    pub name: String,
}

/// Who really links whom.
#[derive(Debug, Deserialize)]
pub struct Resolve {
    pub nodes: Vec<Node>,
}

#[derive(Debug, Deserialize)]
pub struct Node {
    pub id: String,
    pub deps: Vec<Edge>,
}

#[derive(Debug, Deserialize)]
pub struct Edge {
    pub pkg: String,
    pub dep_kinds: Vec<EdgeKind>,
}

#[derive(Debug, Deserialize)]
pub struct EdgeKind {
    pub kind: Option<String>,
}

impl Workspace {
    /// Finds the root from where cargo says this package is.
    pub fn open() -> Result<Self> {
        let own = std::env::var_os("CARGO_MANIFEST_DIR").context("start this with `cargo xtask`")?;
        let root = PathBuf::from(own).parent().context("xtask lies in no workspace")?.to_owned();
        // Every recipe may name files relative to the root.
        std::env::set_current_dir(&root).with_context(|| format!("cannot enter {}", root.display()))?;
        Ok(Self { root })
    }

    /// Files that are, or would be, in a commit: what git ignores is left out, what is deleted too.
    pub fn paths(&self) -> Result<Vec<String>> {
        let mut git = Command::new("git");
        git.args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]).current_dir(&self.root);
        let listed = command::output(git).context("the rules look at what git would commit")?;
        let mut paths: Vec<_> =
            listed.split('\0').filter(|path| !path.is_empty()).map(str::to_owned).collect();
        paths.retain(|path| self.root.join(path).is_file());
        paths.sort();
        paths.dedup();
        Ok(paths)
    }

    /// Every file that is text.
    pub fn texts(&self) -> Result<Vec<TextFile>> {
        let mut files = Vec::new();
        for path in self.paths()? {
            let bytes =
                std::fs::read(self.root.join(&path)).with_context(|| format!("cannot read {path}"))?;
            if let Ok(text) = String::from_utf8(bytes) {
                files.push(TextFile { path, text });
            }
        }
        Ok(files)
    }

    /// Every Rust file.
    pub fn sources(&self) -> Result<Vec<Source>> {
        let rust = self.texts()?.into_iter().filter(|file| file.path.ends_with(".rs"));
        rust.map(|file| Source::parse(file.path, file.text)).collect()
    }

    /// What cargo knows, with the lock file as it is: one that is out of date is an error.
    pub fn metadata(&self) -> Result<Metadata> {
        let mut cargo = command::cargo(&["metadata", "--locked", "--format-version=1"]);
        cargo.current_dir(&self.root);
        serde_json::from_str(&command::output(cargo)?).context("cargo metadata printed something unexpected")
    }

    /// Text of a file, empty when there is none.
    pub fn read(&self, path: &str) -> String {
        std::fs::read_to_string(self.root.join(path)).unwrap_or_default()
    }
}

impl Metadata {
    /// Our own packages.
    pub fn members(&self) -> impl Iterator<Item = &Package> {
        self.packages.iter().filter(|package| self.workspace_members.contains(&package.id))
    }

    /// Names of everything that `package` links, directly or not; what only its tests use is left out.
    pub fn linked(&self, package: &Package) -> BTreeSet<&str> {
        let names: BTreeMap<_, _> = self.packages.iter().map(|p| (p.id.as_str(), p.name.as_str())).collect();
        let nodes: BTreeMap<_, _> =
            self.resolve.iter().flat_map(|r| &r.nodes).map(|node| (node.id.as_str(), node)).collect();
        let (mut seen, mut next) = (BTreeSet::new(), vec![package.id.as_str()]);
        while let Some(id) = next.pop() {
            for edge in nodes.get(id).into_iter().flat_map(|node| &node.deps) {
                let is_linked = edge.dep_kinds.iter().any(|kind| kind.kind.is_none());
                if is_linked && seen.insert(edge.pkg.as_str()) {
                    next.push(&edge.pkg);
                }
            }
        }
        seen.into_iter().filter_map(|id| names.get(id).copied()).collect()
    }
}

impl Source {
    pub fn parse(path: String, text: String) -> Result<Self> {
        let tree = syn::parse_file(&text).with_context(|| format!("{path} is not Rust"))?;
        Ok(Self { path, text, tree })
    }

    /// Whether all of the file is test or bench code.
    pub fn is_test(&self) -> bool {
        let mut steps = self.path.rsplit('/');
        let file = steps.next().unwrap_or_default();
        file == "tests.rs"
            || file.ends_with("_tests.rs")
            || steps.any(|folder| folder == "tests" || folder == "benches")
    }
}

/// Whether an item is compiled into tests only.
pub fn is_test_item(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| match &attribute.meta {
        syn::Meta::Path(path) => path.segments.last().is_some_and(|step| step.ident == "test"),
        syn::Meta::List(list) if list.path.is_ident("cfg") => {
            let words = list.tokens.to_string();
            words == "test" || words.starts_with("all (test") || words.starts_with("any (test")
        }
        syn::Meta::List(list) => list.path.segments.last().is_some_and(|step| step.ident == "test"),
        syn::Meta::NameValue(_) => false,
    })
}
