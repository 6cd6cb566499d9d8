//! No wildcard arms over enums in `core`: a new state, event or reason must be decided everywhere, by the compiler's word.
//!
//! A `match` whose arms name variants (`Phase::Pending`) may have no arm that takes anything. Matches over numbers,
//! texts, `Option` and `Result` are free.

use anyhow::Result;
use syn::Pat;
use syn::spanned::Spanned as _;
use syn::visit::{self, Visit};

use super::Finding;
use crate::workspace::{Source, Workspace, is_test_item};

pub fn hold(workspace: &Workspace) -> Result<Vec<Finding>> {
    Ok(findings(&workspace.sources()?))
}

pub fn findings(sources: &[Source]) -> Vec<Finding> {
    let core = sources.iter().filter(|source| source.path.starts_with("core/src/") && !source.is_test());
    let mut findings = Vec::new();
    for source in core {
        Visitor { path: &source.path, findings: &mut findings }.visit_file(&source.tree);
    }
    findings
}

struct Visitor<'a> {
    path: &'a str,
    findings: &'a mut Vec<Finding>,
}

impl<'ast> Visit<'ast> for Visitor<'_> {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if !is_test_item(&item.attrs) {
            visit::visit_item_mod(self, item);
        }
    }

    fn visit_expr_match(&mut self, found: &'ast syn::ExprMatch) {
        if found.arms.iter().any(|arm| names_a_variant(&arm.pat)) {
            for arm in found.arms.iter().filter(|arm| takes_anything(&arm.pat)) {
                let what = "a wildcard arm over an enum: name the variants";
                self.findings.push(Finding::at(self.path, arm.pat.span(), what));
            }
        }
        visit::visit_expr_match(self, found);
    }
}

/// `Phase::Pending`, `State::Running { .. }`, in a tuple or an alternative too; not `Some(_)`.
fn names_a_variant(pattern: &Pat) -> bool {
    let is_variant = |path: &syn::Path| path.segments.len() > 1;
    match pattern {
        Pat::Path(path) => is_variant(&path.path),
        Pat::Struct(pattern) => is_variant(&pattern.path),
        Pat::TupleStruct(pattern) => is_variant(&pattern.path) || pattern.elems.iter().any(names_a_variant),
        Pat::Tuple(pattern) => pattern.elems.iter().any(names_a_variant),
        Pat::Or(pattern) => pattern.cases.iter().any(names_a_variant),
        Pat::Paren(pattern) => names_a_variant(&pattern.pat),
        Pat::Reference(pattern) => names_a_variant(&pattern.pat),
        Pat::Ident(pattern) => pattern.subpat.as_ref().is_some_and(|(_, inner)| names_a_variant(inner)),
        _ => false,
    }
}

/// `_`, `other`, `(_, other)`.
fn takes_anything(pattern: &Pat) -> bool {
    match pattern {
        Pat::Wild(_) => true,
        // `None` is an identifier to the parser; names of bindings are lower-case.
        Pat::Ident(pattern) => {
            pattern.subpat.is_none()
                && pattern.ident.to_string().starts_with(|first: char| !first.is_uppercase())
        }
        Pat::Tuple(pattern) => pattern.elems.iter().all(takes_anything),
        Pat::Paren(pattern) => takes_anything(&pattern.pat),
        Pat::Reference(pattern) => takes_anything(&pattern.pat),
        Pat::Or(pattern) => pattern.cases.iter().any(takes_anything),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::source;
    use super::*;

    fn count(arms: &str) -> usize {
        findings(&[source("core/src/a.rs", &format!("fn f() {{ match x {{ {arms} }} }}"))]).len()
    }

    #[test]
    fn arms_that_take_any_variant_are_found() {
        assert_eq!(count("Phase::Pending => 1, _ => 2"), 1);
        assert_eq!(count("State::Running { .. } | State::Ready { .. } => 1, other => 2"), 1);
        assert_eq!(count("(Phase::Pending, _) => 1, (_, other) => 2"), 1);
        assert_eq!(count("Some(Phase::Pending) => 1, _ => 2"), 1);
    }

    #[test]
    fn arms_over_anything_else_are_free() {
        assert_eq!(count("Phase::Pending => 1, Phase::Running => 2"), 0);
        assert_eq!(count("\"a\" => 1, _ => 2"), 0);
        assert_eq!(count("0 => 1, other => 2"), 0);
        assert_eq!(count("Some(x) if x > 1 => 1, _ => 2"), 0);
        assert_eq!(count("Some(Phase::Pending) => 1, Some(Phase::Running) => 2, None => 3"), 0);
    }
}
