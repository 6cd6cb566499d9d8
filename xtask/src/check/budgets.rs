//! Length of files and functions.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail};
use syn::spanned::Spanned as _;
use syn::visit::{self, Visit};

use super::Finding;
use crate::workspace::{Source, Workspace, is_test_item};

const MAIN_LINES: usize = 40;
const FILE_LINES: usize = 500;
const TEST_FILE_LINES: usize = 800;
const FUNCTION_LINES: usize = 80;

const EXCEPTIONS: &str = "xtask/budget-exceptions.txt";

pub fn hold(workspace: &Workspace) -> Result<Vec<Finding>> {
    Ok(findings(&workspace.sources()?, &exceptions(&workspace.read(EXCEPTIONS))?))
}

/// Reads `PATH[::FUNCTION] LINES REASON`, one a line.
pub fn exceptions(text: &str) -> Result<BTreeMap<String, usize>> {
    let mut exceptions = BTreeMap::new();
    for line in text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#')) {
        let mut words = line.splitn(3, ' ');
        let (Some(place), Some(lines), Some(_reason)) = (words.next(), words.next(), words.next()) else {
            bail!("{EXCEPTIONS}: `{line}` is not PATH[::FUNCTION] LINES REASON");
        };
        let lines = lines.parse().with_context(|| format!("{EXCEPTIONS}: `{line}`: LINES is no number"))?;
        exceptions.insert(place.to_owned(), lines);
    }
    Ok(exceptions)
}

pub fn findings(sources: &[Source], exceptions: &BTreeMap<String, usize>) -> Vec<Finding> {
    let mut lengths = Vec::new();
    for source in sources {
        let lines = source.text.lines().count();
        let bound = if source.is_test() {
            TEST_FILE_LINES
        } else if source.path.ends_with("/main.rs") || source.path.contains("/src/bin/") {
            MAIN_LINES
        } else {
            FILE_LINES
        };
        lengths.push(Length { place: source.path.clone(), at: source.path.clone(), lines, bound });
        if !source.is_test() {
            Visitor { path: &source.path, lengths: &mut lengths }.visit_file(&source.tree);
        }
    }
    let mut unused: BTreeMap<_, _> = exceptions.iter().collect();
    let mut findings = Vec::new();
    for Length { place, at, lines, bound } in lengths {
        let bound = if lines > bound { unused.remove(&place).copied().unwrap_or(bound) } else { bound };
        if lines > bound {
            findings.push(Finding::new(
                at,
                format!("{lines} lines, {bound} are allowed (or a line in {EXCEPTIONS})"),
            ));
        }
    }
    let stale = unused.keys().map(|place| Finding::new(EXCEPTIONS, format!("{place} needs no exception")));
    findings.extend(stale);
    findings
}

struct Length {
    /// As in the list of exceptions.
    place: String,
    /// For people.
    at: String,
    lines: usize,
    bound: usize,
}

struct Visitor<'a> {
    path: &'a str,
    lengths: &'a mut Vec<Length>,
}

impl Visitor<'_> {
    fn measure(&mut self, signature: &syn::Signature, block: &syn::Block) {
        let (first, last) = (signature.span().start().line, block.span().end().line);
        self.lengths.push(Length {
            place: format!("{}::{}", self.path, signature.ident),
            at: format!("{}:{first} {}", self.path, signature.ident),
            lines: last - first + 1,
            bound: FUNCTION_LINES,
        });
    }
}

impl<'ast> Visit<'ast> for Visitor<'_> {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if !is_test_item(&item.attrs) {
            visit::visit_item_mod(self, item);
        }
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.measure(&item.sig, &item.block);
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.measure(&item.sig, &item.block);
        visit::visit_impl_item_fn(self, item);
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        if let Some(block) = &item.default {
            self.measure(&item.sig, block);
        }
        visit::visit_trait_item_fn(self, item);
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::source;
    use super::*;

    fn places(path: &str, text: &str, exceptions: &[(&str, usize)]) -> Vec<String> {
        let exceptions = exceptions.iter().map(|(place, lines)| ((*place).to_owned(), *lines)).collect();
        findings(&[source(path, text)], &exceptions).into_iter().map(|finding| finding.place).collect()
    }

    fn function(lines: usize) -> String {
        format!("fn long() {{\n{}}}\n", "f();\n".repeat(lines - 2))
    }

    #[test]
    fn a_file_and_a_main_that_are_too_long_are_found() {
        let lines = |count| "// a line\n".repeat(count);
        assert_eq!(places("a/src/b.rs", &lines(500), &[]).len(), 0);
        assert_eq!(places("a/src/b.rs", &lines(501), &[]), ["a/src/b.rs"]);
        assert_eq!(places("a/src/main.rs", &lines(41), &[]), ["a/src/main.rs"]);
        assert_eq!(places("a/src/b_tests.rs", &lines(800), &[]).len(), 0);
        assert_eq!(places("a/src/b_tests.rs", &lines(801), &[]), ["a/src/b_tests.rs"]);
    }

    #[test]
    fn a_function_that_is_too_long_is_found() {
        assert_eq!(places("a/src/b.rs", &function(80), &[]).len(), 0);
        assert_eq!(places("a/src/b.rs", &function(81), &[]), ["a/src/b.rs:1 long"]);
        let method = format!("impl A {{\n{}}}", function(81));
        assert_eq!(places("a/src/b.rs", &method, &[]), ["a/src/b.rs:2 long"]);
    }

    #[test]
    fn an_exception_holds_up_to_its_own_bound_and_must_be_needed() {
        assert_eq!(places("a/src/b.rs", &function(90), &[("a/src/b.rs::long", 90)]).len(), 0);
        assert_eq!(places("a/src/b.rs", &function(91), &[("a/src/b.rs::long", 90)]), ["a/src/b.rs:1 long"]);
        assert_eq!(places("a/src/b.rs", &function(70), &[("a/src/b.rs::long", 90)]), [EXCEPTIONS]);
    }

    #[test]
    fn an_exception_needs_a_reason() {
        assert!(exceptions("a/src/b.rs 600").is_err());
        assert_eq!(exceptions("# why\na/src/b.rs 600 one table").unwrap()["a/src/b.rs"], 600);
    }
}
