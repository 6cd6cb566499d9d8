//! Tests wait for a condition with a deadline, never for a time.
//!
//! A sleep inside a loop is the pause between two looks at a condition, and a sleep in a test with a paused clock costs
//! nothing; any other sleep in test code is bare. A function called `pause` or `park` may wrap a sleep, and is then
//! held to the same. Outside tests clippy's `disallowed-methods` refuses `std::thread::sleep`.

use std::collections::BTreeSet;

use anyhow::{Result, bail};
use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};

use super::Finding;
use crate::workspace::{Source, Workspace, is_test_item};

const WHAT: &str = "a bare sleep: wait for a condition with a deadline";
const EXCEPTIONS: &str = "xtask/sleep-exceptions.txt";
/// What a wrapper of a sleep is called.
const WRAPPERS: [&str; 2] = ["pause", "park"];

pub fn hold(workspace: &Workspace) -> Result<Vec<Finding>> {
    Ok(findings(&workspace.sources()?, exceptions(&workspace.read(EXCEPTIONS))?))
}

/// Reads `PATH::FUNCTION REASON`, one a line.
pub fn exceptions(text: &str) -> Result<BTreeSet<String>> {
    let mut exceptions = BTreeSet::new();
    for line in text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#')) {
        match line.split_once(' ') {
            Some((place, reason)) if !reason.trim().is_empty() => exceptions.insert(place.to_owned()),
            _ => bail!("{EXCEPTIONS}: `{line}` is not PATH::FUNCTION REASON"),
        };
    }
    Ok(exceptions)
}

pub fn findings(sources: &[Source], mut exceptions: BTreeSet<String>) -> Vec<Finding> {
    let mut sleeps = Vec::new();
    for source in sources {
        let mut visitor = Visitor {
            path: &source.path,
            sleeps: &mut sleeps,
            function: String::new(),
            in_test: source.is_test(),
            is_free: false,
        };
        visitor.visit_file(&source.tree);
    }
    let excused: BTreeSet<_> = sleeps.iter().map(|sleep| sleep.place.clone()).collect();
    let mut findings: Vec<_> = sleeps
        .into_iter()
        .filter(|sleep| !exceptions.contains(&sleep.place))
        .map(|sleep| sleep.finding)
        .collect();
    exceptions.retain(|place| !excused.contains(place));
    findings.extend(
        exceptions.iter().map(|place| Finding::new(EXCEPTIONS, format!("{place} needs no exception"))),
    );
    findings
}

/// A bare sleep.
struct Sleep {
    /// As in the list of exceptions.
    place: String,
    finding: Finding,
}

struct Visitor<'a> {
    path: &'a str,
    sleeps: &'a mut Vec<Sleep>,
    function: String,
    in_test: bool,
    /// In a loop, or under a paused clock.
    is_free: bool,
}

impl Visitor<'_> {
    fn freely(&mut self, free: bool, look: impl FnOnce(&mut Self)) {
        let before = std::mem::replace(&mut self.is_free, free);
        look(self);
        self.is_free = before;
    }

    fn found(&mut self, name: &syn::Ident) {
        let place = format!("{}::{}", self.path, self.function);
        self.sleeps.push(Sleep { place, finding: Finding::at(self.path, name.span(), WHAT) });
    }

    fn look_at_tokens(&mut self, tokens: TokenStream) {
        let tokens: Vec<_> = tokens.into_iter().collect();
        for (at, token) in tokens.iter().enumerate() {
            match (token, tokens.get(at + 1)) {
                (TokenTree::Ident(name), Some(TokenTree::Group(_))) if is_sleep(name) => self.found(name),
                (TokenTree::Group(group), _) => self.look_at_tokens(group.stream()),
                _ => {}
            }
        }
    }
}

fn is_sleep(name: &syn::Ident) -> bool {
    name == "sleep" || WRAPPERS.iter().any(|wrapper| name == wrapper)
}

impl<'ast> Visit<'ast> for Visitor<'_> {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        let before = self.in_test;
        self.in_test |= is_test_item(&item.attrs);
        visit::visit_item_mod(self, item);
        self.in_test = before;
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        let is_paused = item.attrs.iter().any(|attribute| match &attribute.meta {
            syn::Meta::List(list) => list.tokens.to_string().contains("start_paused = true"),
            syn::Meta::Path(_) | syn::Meta::NameValue(_) => false,
        });
        let before = (self.in_test, std::mem::replace(&mut self.function, item.sig.ident.to_string()));
        self.in_test |= is_test_item(&item.attrs);
        let is_free = is_paused || WRAPPERS.iter().any(|wrapper| item.sig.ident == wrapper);
        self.freely(is_free, |this| visit::visit_item_fn(this, item));
        (self.in_test, self.function) = before;
    }

    fn visit_expr_loop(&mut self, found: &'ast syn::ExprLoop) {
        self.freely(true, |this| visit::visit_expr_loop(this, found));
    }

    fn visit_expr_while(&mut self, found: &'ast syn::ExprWhile) {
        self.freely(true, |this| visit::visit_expr_while(this, found));
    }

    fn visit_expr_call(&mut self, call: &'ast syn::ExprCall) {
        if let syn::Expr::Path(function) = &*call.func
            && let Some(last) = function.path.segments.last()
            && is_sleep(&last.ident)
            && self.in_test
            && !self.is_free
        {
            self.found(&last.ident);
        }
        visit::visit_expr_call(self, call);
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        if self.in_test && !self.is_free {
            self.look_at_tokens(call.tokens.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::source;
    use super::*;

    fn count(path: &str, text: &str) -> usize {
        findings(&[source(path, text)], BTreeSet::new()).len()
    }

    #[test]
    fn a_bare_sleep_in_a_test_is_found() {
        assert_eq!(count("a/tests/b.rs", "async fn f() { tokio::time::sleep(second).await; }"), 1);
        assert_eq!(count("a/src/b.rs", "#[cfg(test)] mod tests { fn f() { thread::sleep(second); } }"), 1);
        assert_eq!(count("a/src/b.rs", "#[tokio::test] async fn f() { sleep(second).await; }"), 1);
        assert_eq!(count("a/tests/b.rs", "fn f() { block_on!(sleep(second)); }"), 1);
    }

    #[test]
    fn a_wait_for_a_condition_and_a_paused_clock_are_not() {
        assert_eq!(count("a/tests/b.rs", "fn f() { while !done() { sleep(pause); } }"), 0);
        assert_eq!(
            count("a/tests/b.rs", "#[tokio::test(start_paused = true)] async fn f() { sleep(s).await; }"),
            0
        );
        assert_eq!(count("a/src/b.rs", "async fn f() { tokio::time::sleep(backoff).await; }"), 0);
        assert_eq!(count("a/tests/b.rs", "fn f() { run(\"sleep 5\"); }"), 0);
    }

    #[test]
    fn a_wrapper_is_held_to_the_same() {
        assert_eq!(count("a/tests/b.rs", "fn pause() { sleep(short); } fn f() { loop { pause(); } }"), 0);
        assert_eq!(count("a/tests/b.rs", "fn pause() { sleep(short); } fn f() { pause(); }"), 1);
    }

    #[test]
    fn an_exception_names_the_function_must_be_needed_and_has_a_reason() {
        let hold = |text: &str, list: &str| {
            findings(&[source("a/tests/b.rs", text)], exceptions(list).unwrap()).len()
        };
        assert_eq!(hold("fn f() { sleep(n); }", "# c\na/tests/b.rs::f a race at every moment\n"), 0);
        assert_eq!(hold("fn g() { sleep(n); }", "a/tests/b.rs::f a race at every moment"), 2);
        assert!(exceptions("a/tests/b.rs::f").is_err());
    }
}
