//! Tests wait for a condition with a deadline, never for a time.
//!
//! A sleep inside a loop is the pause between two looks at a condition, and a sleep in a test with a paused clock costs
//! nothing; any other sleep in test code is bare. Outside tests clippy's `disallowed-methods` refuses
//! `std::thread::sleep`.

use anyhow::Result;
use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};

use super::Finding;
use crate::workspace::{Source, Workspace, is_test_item};

const WHAT: &str = "a bare sleep: wait for a condition with a deadline";

pub fn hold(workspace: &Workspace) -> Result<Vec<Finding>> {
    Ok(findings(&workspace.sources()?))
}

pub fn findings(sources: &[Source]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in sources {
        let mut visitor = Visitor {
            path: &source.path,
            findings: &mut findings,
            in_test: source.is_test(),
            is_free: false,
        };
        visitor.visit_file(&source.tree);
    }
    findings
}

struct Visitor<'a> {
    path: &'a str,
    findings: &'a mut Vec<Finding>,
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

    fn look_at_tokens(&mut self, tokens: TokenStream) {
        let tokens: Vec<_> = tokens.into_iter().collect();
        for (at, token) in tokens.iter().enumerate() {
            match (token, tokens.get(at + 1)) {
                (TokenTree::Ident(name), Some(TokenTree::Group(_))) if name == "sleep" => {
                    self.findings.push(Finding::at(self.path, name.span(), WHAT));
                }
                (TokenTree::Group(group), _) => self.look_at_tokens(group.stream()),
                _ => {}
            }
        }
    }
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
        let before = self.in_test;
        self.in_test |= is_test_item(&item.attrs);
        self.freely(is_paused, |this| visit::visit_item_fn(this, item));
        self.in_test = before;
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
            && last.ident == "sleep"
            && self.in_test
            && !self.is_free
        {
            self.findings.push(Finding::at(self.path, last.ident.span(), WHAT));
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
        findings(&[source(path, text)]).len()
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
}
