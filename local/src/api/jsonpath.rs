//! The part of JSONPath that printer columns use: members, indexes, `[*]` and `[?(@.a=="b")]`.

use serde_json::Value;

/// The first value that `path` (`.status.conditions[?(@.type=="Ready")].status`) finds.
pub fn find<'a>(root: &'a Value, path: &str) -> Option<&'a Value> {
    all(root, path).into_iter().next()
}

fn all<'a>(root: &'a Value, path: &str) -> Vec<&'a Value> {
    let mut found = vec![root];
    let mut rest = path.trim_start_matches('$');
    while !rest.is_empty() && !found.is_empty() {
        let step;
        (step, rest) = next_step(rest);
        found = found.into_iter().flat_map(|value| take(value, &step)).filter(|v| !v.is_null()).collect();
    }
    found
}

enum Step {
    Member(String),
    Index(i64),
    Every,
    /// Items whose member at the path equals the text.
    Where(String, String),
    Nothing,
}

fn next_step(path: &str) -> (Step, &str) {
    if let Some(inside) = path.strip_prefix('[') {
        let Some((inside, rest)) = split_bracket(inside) else { return (Step::Nothing, "") };
        let step = if inside == "*" {
            Step::Every
        } else if let Some(condition) = inside.strip_prefix("?(").and_then(|c| c.strip_suffix(')')) {
            match condition.split_once("==") {
                Some((left, right)) => Step::Where(
                    left.trim().trim_start_matches('@').to_owned(),
                    right.trim().trim_matches(['"', '\'']).to_owned(),
                ),
                None => Step::Nothing,
            }
        } else if let Ok(index) = inside.parse() {
            Step::Index(index)
        } else {
            Step::Member(inside.trim_matches(['"', '\'']).to_owned())
        };
        return (step, rest);
    }
    let path = path.strip_prefix('.').unwrap_or(path);
    let mut name = String::new();
    let mut chars = path.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => name.extend(chars.next().map(|(_, c)| c)),
            '.' | '[' => return (Step::Member(name), &path[at..]),
            c => name.push(c),
        }
    }
    (Step::Member(name), "")
}

/// Splits at the bracket that closes, past those inside quotes.
fn split_bracket(text: &str) -> Option<(&str, &str)> {
    let mut quote = None;
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (None, ']') => return Some((&text[..at], &text[at + 1..])),
            (None, '"' | '\'') => quote = Some(c),
            (Some(open), c) if c == open => quote = None,
            _ => {}
        }
    }
    None
}

fn take<'a>(value: &'a Value, step: &Step) -> Vec<&'a Value> {
    match step {
        Step::Member(name) => value.get(name).into_iter().collect(),
        Step::Index(index) => {
            let length = value.as_array().map_or(0, Vec::len);
            let at = if *index < 0 { index + length as i64 } else { *index };
            usize::try_from(at).ok().and_then(|at| value.get(at)).into_iter().collect()
        }
        Step::Every => match value {
            Value::Array(items) => items.iter().collect(),
            Value::Object(map) => map.values().collect(),
            _ => Vec::new(),
        },
        Step::Where(path, wanted) => value
            .as_array()
            .into_iter()
            .flatten()
            .filter(|item| match find(item, path) {
                Some(Value::String(text)) => text == wanted,
                Some(other) => serde_json::from_str::<Value>(wanted).is_ok_and(|wanted| wanted == *other),
                None => false,
            })
            .collect(),
        Step::Nothing => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn printer_columns_find_their_values() {
        let object = json!({
            "metadata": {"annotations": {"a.b/c": "dotted"}},
            "spec": {"containers": [{"image": "one"}, {"image": "two"}]},
            "status": {"conditions": [{"type": "X", "status": "False"}, {"type": "Ready", "status": "True"}]},
        });
        for (path, wanted) in [
            (".spec.containers[0].image", Some("one")),
            (".spec.containers[-1].image", Some("two")),
            (".spec.containers[*].image", Some("one")),
            (".spec.containers[5].image", None),
            (".status.conditions[?(@.type==\"Ready\")].status", Some("True")),
            (".status.conditions[?(@.type=='Gone')].status", None),
            (".metadata.annotations.a\\.b/c", Some("dotted")),
            (".metadata.annotations['a.b/c']", Some("dotted")),
            (".nothing.here", None),
            (".spec.containers[", None),
        ] {
            assert_eq!(find(&object, path).and_then(Value::as_str), wanted, "{path}");
        }
    }
}
