//! One door to a Run's status: whoever wants to change phase, reason or conditions calls `core::run::transition`.
//!
//! Looked for in every file that speaks of Runs, tests aside: an assignment to such a field, a change of it in place, a
//! `RunStatus` written out with it, and, where it is JSON, a status written out or assigned by its key. Syntax alone cannot tell a Run's status from
//! another's; a file that handles two kinds keeps the other kind's status in a file of its own.

use anyhow::Result;
use proc_macro2::{Delimiter, TokenStream, TokenTree};
use syn::visit::{self, Visit};

use super::Finding;
use crate::workspace::{Source, Workspace, is_test_item};

const DOOR: &str = "core/src/run/";
const FIELDS: [&str; 3] = ["phase", "reason", "conditions"];
const STATUS: &str = "status";
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

    fn keyed(&mut self, span: proc_macro2::Span) {
        self.findings.push(Finding::at(
            self.path,
            span,
            format!("a status is assigned by its key: {ADVICE}"),
        ));
    }

    fn written(&mut self, span: proc_macro2::Span, body: &proc_macro2::Group) {
        if body.delimiter() == Delimiter::Brace {
            self.findings.push(Finding::at(self.path, span, format!("a status in JSON: {ADVICE}")));
        }
    }

    /// Inside macros there are only tokens: `.phase = ..`, `["status"]["phase"] = ..`, and `"status": {..}`, of which
    /// nobody can say whose it is and what a variable in it holds: none is written here at all.
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
                (
                    TokenTree::Group(status),
                    [TokenTree::Group(field), TokenTree::Punct(equals), after, ..],
                ) if equals.as_char() == '='
                    && !is_equals(after)
                    && index_of(status).as_deref() == Some(STATUS)
                    && index_of(field).is_some_and(|field| FIELDS.contains(&&*field)) =>
                {
                    self.keyed(field.span());
                }
                (TokenTree::Literal(key), [TokenTree::Punct(colon), TokenTree::Group(body), ..])
                    if key.to_string() == format!("{STATUS:?}") && colon.as_char() == ':' =>
                {
                    self.written(key.span(), body);
                }
                _ => {}
            }
            if let TokenTree::Group(group) = token {
                self.look_at_tokens(group.stream());
            }
        }
    }
}

/// The word of `["word"]`.
fn index_of(group: &proc_macro2::Group) -> Option<String> {
    let mut tokens = group.stream().into_iter();
    match (group.delimiter(), tokens.next(), tokens.next()) {
        (Delimiter::Bracket, Some(TokenTree::Literal(word)), None) => {
            Some(word.to_string().trim_matches('"').to_owned())
        }
        _ => None,
    }
}

/// The words of `..["a"]["b"]`, the last first.
fn keys(mut expression: &syn::Expr) -> Vec<String> {
    let mut keys = Vec::new();
    while let syn::Expr::Index(index) = expression {
        match &*index.index {
            syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(word), .. }) => keys.push(word.value()),
            _ => keys.push(String::new()),
        }
        expression = &index.expr;
    }
    keys
}

/// Whether those keys lead to a status, or to one of its guarded fields.
fn lead_to_a_status(keys: &[String]) -> bool {
    match keys {
        [last, ..] if last == STATUS => true,
        [last, before, ..] => before == STATUS && FIELDS.contains(&&**last),
        _ => false,
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
        if lead_to_a_status(&keys(&assign.left)) {
            self.keyed(syn::spanned::Spanned::span(&*assign.left));
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
        if call.method == "pointer_mut"
            && let Some(syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(path), .. })) = call.args.first()
            && lead_to_a_status(&path.value().rsplit('/').map(str::to_owned).collect::<Vec<_>>())
        {
            self.keyed(path.span());
        }
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
        // A schema says what a status may be; it writes none.
        if call.path.segments.last().is_some_and(|segment| segment.ident == "json_schema") {
            return;
        }
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
            "let p = json!({\"status\": {\"reason\": \"Timeout\"}});",
            "let p = json!({\"metadata\": {}, \"status\": {KEY: \"Failed\", \"message\": \"m\"}});",
            "patch[\"status\"][\"phase\"] = json!(\"Failed\");",
            "patch[\"status\"][\"conditions\"] = json!([]);",
            "object[\"status\"] = status;",
            "tokio::select! { x = rx.recv() => { v[\"status\"][\"reason\"] = x; } }",
            "*v.pointer_mut(\"/status/phase\").unwrap() = json!(\"Failed\");",
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
            "if v[\"status\"][\"phase\"] == json!(\"Failed\") {}",
            "assert!(v[\"status\"][\"phase\"] == \"Failed\");",
            "v[\"status\"][\"message\"] = json!(\"m\");",
            "let c = json!({\"type\": \"X\", \"status\": word});",
            "v.pointer_mut(\"/status/inUse\");",
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
