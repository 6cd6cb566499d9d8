//! `core` decides and does nothing else: no files, environment, processes, network, clock or threads.

use anyhow::Result;
use syn::visit::{self, Visit};

use super::Finding;
use crate::workspace::{Source, Workspace, is_test_item};

/// Modules of the standard library that reach outside.
const OUTSIDE: [&str; 6] = ["env", "fs", "io", "net", "process", "thread"];

pub fn hold(workspace: &Workspace) -> Result<Vec<Finding>> {
    Ok(findings(&workspace.sources()?))
}

pub fn findings(sources: &[Source]) -> Vec<Finding> {
    let core = sources.iter().filter(|source| source.path.starts_with("core/src/") && !source.is_test());
    let mut findings = Vec::new();
    for source in core {
        let mut visitor = Visitor { path: &source.path, findings: &mut findings };
        visitor.visit_file(&source.tree);
    }
    findings
}

struct Visitor<'a> {
    path: &'a str,
    findings: &'a mut Vec<Finding>,
}

impl Visitor<'_> {
    fn look(&mut self, steps: &[&syn::Ident]) {
        let Some(last) = steps.last() else { return };
        let outside =
            steps.windows(2).any(|pair| pair[0] == "std" && OUTSIDE.iter().any(|module| pair[1] == module));
        let clock = steps.len() > 1 && *last == "now";
        if outside || clock {
            let name: Vec<_> = steps.iter().map(ToString::to_string).collect();
            let what = format!("{}: in core, whatever comes from outside is an argument", name.join("::"));
            self.findings.push(Finding::at(self.path, last.span(), what));
        }
    }

    fn look_at_use<'t>(&mut self, tree: &'t syn::UseTree, before: &mut Vec<&'t syn::Ident>) {
        let depth = before.len();
        match tree {
            syn::UseTree::Path(path) => {
                before.push(&path.ident);
                self.look_at_use(&path.tree, before);
            }
            syn::UseTree::Group(group) => {
                for tree in &group.items {
                    self.look_at_use(tree, before);
                }
            }
            syn::UseTree::Name(name) => {
                before.push(&name.ident);
                self.look(before);
            }
            syn::UseTree::Rename(rename) => {
                before.push(&rename.ident);
                self.look(before);
            }
            syn::UseTree::Glob(_) => self.look(before),
        }
        before.truncate(depth);
    }
}

impl<'ast> Visit<'ast> for Visitor<'_> {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if !is_test_item(&item.attrs) {
            visit::visit_item_mod(self, item);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        self.look(&path.segments.iter().map(|step| &step.ident).collect::<Vec<_>>());
        visit::visit_path(self, path);
    }

    fn visit_use_tree(&mut self, tree: &'ast syn::UseTree) {
        self.look_at_use(tree, &mut Vec::new());
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::source;
    use super::*;

    fn places(path: &str, text: &str) -> Vec<String> {
        findings(&[source(path, text)]).into_iter().map(|finding| finding.place).collect()
    }

    #[test]
    fn files_environment_and_clock_are_found() {
        let text =
            "use std::{fs, fmt};\nfn f() { let _ = std::env::var(\"A\"); }\nfn g() -> T { Timestamp::now() }";
        assert_eq!(places("core/src/a.rs", text), ["core/src/a.rs:1", "core/src/a.rs:2", "core/src/a.rs:3"]);
    }

    #[test]
    fn an_argument_called_now_and_code_elsewhere_are_not() {
        assert_eq!(places("core/src/a.rs", "use std::fmt;\nfn f(now: T) -> T { now }").len(), 0);
        assert_eq!(places("krt/src/a.rs", "use std::fs;").len(), 0);
        assert_eq!(places("core/src/a.rs", "#[cfg(test)]\nmod tests { use std::fs; }").len(), 0);
    }
}
