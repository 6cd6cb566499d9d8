//! Label and field selectors.

use super::errors::ApiError;
use crate::kinds::Kind;
use crate::store::Entry;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Requirement {
    Exists(String),
    Absent(String),
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Field {
    Name,
    Namespace,
    Selectable(usize),
}

/// What a list or watch asks for; the default takes everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selector {
    labels: Vec<Requirement>,
    /// Field, value, whether it must be equal.
    fields: Vec<(Field, String, bool)>,
}

impl Selector {
    /// Parses the two query parameters.
    ///
    /// # Errors
    /// When one does not parse, or a field is not selectable for the kind.
    pub fn parse(kind: &Kind, labels: &str, fields: &str) -> Result<Self, ApiError> {
        Ok(Self { labels: parse_labels(labels)?, fields: parse_fields(kind, fields)? })
    }

    pub fn matches(&self, entry: &Entry) -> bool {
        let label = |key: &String| entry.labels.get(key);
        let labels = self.labels.iter().all(|requirement| match requirement {
            Requirement::Exists(key) => label(key).is_some(),
            Requirement::Absent(key) => label(key).is_none(),
            Requirement::In(key, values) => label(key).is_some_and(|v| values.contains(v)),
            Requirement::NotIn(key, values) => label(key).is_none_or(|v| !values.contains(v)),
        });
        labels
            && self.fields.iter().all(|(field, value, equal)| {
                let actual = match field {
                    Field::Name => &entry.key.name,
                    Field::Namespace => &entry.key.namespace,
                    Field::Selectable(at) => &entry.fields[*at],
                };
                (actual == value) == *equal
            })
    }

    /// The one name that can match, when the selector asks for one.
    pub fn name(&self) -> Option<&str> {
        self.fields.iter().find_map(|(f, v, equal)| (*f == Field::Name && *equal).then_some(v.as_str()))
    }
}

/// Splits at commas that are not inside parentheses.
fn terms(text: &str) -> Vec<&str> {
    let mut depth = 0usize;
    text.split(move |c| {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == ',' && depth == 0
    })
    .map(str::trim)
    .filter(|t| !t.is_empty())
    .collect()
}

fn parse_labels(text: &str) -> Result<Vec<Requirement>, ApiError> {
    let bad = |term: &str| ApiError::BadRequest(format!("unable to parse label selector {term:?}"));
    terms(text)
        .into_iter()
        .map(|term| {
            let requirement = if let Some((key, value)) = term.split_once("!=") {
                Requirement::NotIn(key.trim().into(), vec![value.trim().into()])
            } else if let Some((key, value)) = term.split_once('=') {
                Requirement::In(key.trim().into(), vec![value.trim_start_matches('=').trim().into()])
            } else if let Some(key) = term.strip_prefix('!') {
                Requirement::Absent(key.trim().into())
            } else if let Some((head, values)) = term.split_once('(') {
                let values = values.strip_suffix(')').ok_or_else(|| bad(term))?;
                let values = values.split(',').map(|v| v.trim().to_owned()).collect();
                match head.split_whitespace().collect::<Vec<_>>()[..] {
                    [key, "in"] => Requirement::In(key.into(), values),
                    [key, "notin"] => Requirement::NotIn(key.into(), values),
                    _ => return Err(bad(term)),
                }
            } else {
                Requirement::Exists(term.into())
            };
            let (Requirement::Exists(key)
            | Requirement::Absent(key)
            | Requirement::In(key, _)
            | Requirement::NotIn(key, _)) = &requirement;
            if key.is_empty() || key.contains(char::is_whitespace) {
                return Err(bad(term));
            }
            Ok(requirement)
        })
        .collect()
}

fn parse_fields(kind: &Kind, text: &str) -> Result<Vec<(Field, String, bool)>, ApiError> {
    terms(text)
        .into_iter()
        .map(|term| {
            let (path, value, equal) = if let Some((path, value)) = term.split_once("!=") {
                (path, value, false)
            } else if let Some((path, value)) = term.split_once('=') {
                (path, value.strip_prefix('=').unwrap_or(value), true)
            } else {
                return Err(ApiError::BadRequest(format!("invalid field selector: {term:?}")));
            };
            let field = match path.trim() {
                "metadata.name" => Field::Name,
                "metadata.namespace" => Field::Namespace,
                path => match kind.selectable.iter().position(|f| f == path) {
                    Some(at) => Field::Selectable(at),
                    None => {
                        return Err(ApiError::BadRequest(format!("field label not supported: {path}")));
                    }
                },
            };
            let value = value.replace("\\,", ",").replace("\\=", "=").replace("\\\\", "\\");
            Ok((field, value, equal))
        })
        .collect()
}

#[cfg(test)]
mod tests;
