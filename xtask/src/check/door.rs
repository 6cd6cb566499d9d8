//! One door to a Run's status: whoever wants to change phase, reason or conditions calls `core::run::transition`.
//!
//! Looked for in every file that speaks of Runs, tests aside: an assignment to such a field, a change of it in place, a
//! `RunStatus` written out with it, and a patch written as JSON. Syntax alone cannot tell a Run's status from
//! another's; a file that handles two kinds keeps the other kind's status in a file of its own.

use anyhow::Result;
use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};

use super::Finding;
use crate::workspace::{Source, Workspace, is_test_item};

const DOOR: &str = "core/src/run/";
const FIELDS: [&str; 3] = ["phase", "reason", "conditions"];
const CHANGES: [&str; 8] =
    ["push", "insert", "extend", "clear", "retain", "remove", "replace", "get_or_insert"];
const ADVICE: &str = "only core::run::transition decides that of a Run";

pub fn hold(workspace: &Workspace) -> Result<Vec<Finding>> {
    Ok(findings(&workspace.sources()?))
}

pub fn findings(sources: &[Source]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for source in sources.iter().filter(|source| !source.path.starts_with(DOOR) && !source.is_test()) {
        let mut speaks = SpeaksOfRuns(false);
        speaks.visit_file(&source.tree);
        if speaks.0 {
            Visitor { path: &source.path, findings: &mut findings }.visit_file(&source.tree);
        }
    }
    findings
}

/// Whether a file names the type `Run` or `RunStatus`.
struct SpeaksOfRuns(bool);

impl<'ast> Visit<'ast> for SpeaksOfRuns {
    fn visit_ident(&mut self, ident: &'ast proc_macro2::Ident) {
        self.0 |= ident == "Run" || ident == "RunStatus";
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if !is_test_item(&item.attrs) {
            visit::visit_item_mod(self, item);
        }
    }

    // An enum may well have a variant of that name: only types count.
    fn visit_variant(&mut self, _: &'ast syn::Variant) {}
}

struct Visitor<'a> {
    path: &'a str,
    findings: &'a mut Vec<Finding>,
}

impl Visitor<'_> {
    fn found(&mut self, ident: &syn::Ident, how: &str) {
        self.findings.push(Finding::at(self.path, ident.span(), format!("{ident} {how}: {ADVICE}")));
    }

    /// Inside macros there are only tokens: `.phase = ..`, and `"status": {.. "phase": ..}`.
    fn look_at_tokens(&mut self, tokens: TokenStream) {
        let tokens: Vec<_> = tokens.into_iter().collect();
        for (at, token) in tokens.iter().enumerate() {
            match (token, &tokens[at + 1..]) {
                (TokenTree::Punct(dot), [TokenTree::Ident(field), TokenTree::Punct(equals), after, ..])
                    if dot.as_char() == '.'
                        && equals.as_char() == '='
                        && is_guarded(field)
                        && !is_equals(after) =>
                {
                    self.found(field, "is assigned");
                }
                (TokenTree::Literal(key), [TokenTree::Punct(colon), TokenTree::Group(body), ..])
                    if key.to_string() == "\"status\"" && colon.as_char() == ':' =>
                {
                    self.look_at_status(body.stream());
                }
                _ => {}
            }
            if let TokenTree::Group(group) = token {
                self.look_at_tokens(group.stream());
            }
        }
    }

    /// Of a status in JSON only the phase is the Run's own: others have conditions too.
    fn look_at_status(&mut self, body: TokenStream) {
        for token in body {
            if let TokenTree::Literal(key) = &token
                && key.to_string() == "\"phase\""
            {
                self.findings.push(Finding::at(self.path, key.span(), format!("phase in a patch: {ADVICE}")));
            }
        }
    }
}

fn is_guarded(field: &syn::Ident) -> bool {
    FIELDS.iter().any(|guarded| field == guarded)
}

fn is_equals(token: &TokenTree) -> bool {
    matches!(token, TokenTree::Punct(punct) if punct.as_char() == '=')
}

/// The guarded field that an expression ends in.
fn guarded_field(expression: &syn::Expr) -> Option<&syn::Ident> {
    match expression {
        syn::Expr::Field(syn::ExprField { member: syn::Member::Named(name), .. }) if is_guarded(name) => {
            Some(name)
        }
        _ => None,
    }
}

impl<'ast> Visit<'ast> for Visitor<'_> {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if !is_test_item(&item.attrs) {
            visit::visit_item_mod(self, item);
        }
    }

    fn visit_expr_assign(&mut self, assign: &'ast syn::ExprAssign) {
        if let Some(field) = guarded_field(&assign.left) {
            self.found(field, "is assigned");
        }
        visit::visit_expr_assign(self, assign);
    }

    fn visit_expr_reference(&mut self, reference: &'ast syn::ExprReference) {
        if reference.mutability.is_some()
            && let Some(field) = guarded_field(&reference.expr)
        {
            self.found(field, "is lent for a change");
        }
        visit::visit_expr_reference(self, reference);
    }

    fn visit_expr_method_call(&mut self, call: &'ast syn::ExprMethodCall) {
        if CHANGES.iter().any(|name| call.method == name)
            && let Some(field) = guarded_field(&call.receiver)
        {
            self.found(field, "is changed in place");
        }
        visit::visit_expr_method_call(self, call);
    }

    fn visit_expr_struct(&mut self, literal: &'ast syn::ExprStruct) {
        if literal.path.segments.last().is_some_and(|step| step.ident == "RunStatus") {
            for field in &literal.fields {
                if let syn::Member::Named(name) = &field.member
                    && is_guarded(name)
                {
                    self.found(name, "is written out");
                }
            }
        }
        visit::visit_expr_struct(self, literal);
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        self.look_at_tokens(call.tokens.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::source;
    use super::*;

    fn count(path: &str, body: &str) -> usize {
        findings(&[source(path, &format!("use api::{{Run, RunStatus}};\nfn f() {{ {body} }}"))]).len()
    }

    #[test]
    fn every_way_around_the_door_is_found() {
        for body in [
            "status.phase = Some(Phase::Failed);",
            "run.status.reason = None;",
            "status.conditions.push(condition);",
            "change(&mut status.conditions);",
            "let s = RunStatus { phase: Some(Phase::Failed), ..old };",
            "let p = json!({\"status\": {\"phase\": \"Failed\"}});",
            "tokio::select! { x = rx.recv() => { status.phase = x; } }",
        ] {
            assert_eq!(count("runtimed/src/a.rs", body), 1, "{body}");
        }
    }

    #[test]
    fn the_door_itself_reading_and_other_fields_are_not() {
        assert_eq!(count("core/src/run/transition.rs", "status.phase = None;"), 0);
        assert_eq!(count("tests/src/a.rs", "status.phase = None;"), 0);
        for body in [
            "if status.phase == Some(Phase::Failed) {}",
            "assert!(status.phase == None);",
            "status.message = None;",
            "let s = RunStatus { message: None, ..old };",
            "let p = json!({\"status\": {\"conditions\": [heartbeat]}});",
        ] {
            assert_eq!(count("runtimed/src/a.rs", body), 0, "{body}");
        }
    }

    #[test]
    fn a_file_that_does_not_speak_of_runs_may_set_the_status_of_its_own_kind() {
        assert_eq!(
            findings(&[source("control-plane/src/runtime.rs", "fn f() { status.conditions = all; }")]),
            []
        );
    }
}
