//! The outputs file: UTF-8 lines `KEY=VALUE`. Bounds and grammar are the public ones.

use std::collections::BTreeMap;

/// Keys at most.
pub const MAX_KEYS: usize = 64;
/// Bytes of a key at most.
pub const MAX_KEY: usize = 128;
/// Bytes of a value at most.
pub const MAX_VALUE: usize = 8192;
/// Bytes of all keys and values together at most.
pub const MAX_TOTAL: usize = 65_536;
/// Bytes of the file at most, comments and repeated keys included.
pub const MAX_FILE: usize = 1 << 20;

/// Why outputs were refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OutputsError {
    /// A line is not `KEY=VALUE`.
    #[error("outputs line {line}: {why}")]
    Malformed {
        /// From 1.
        line: usize,
        /// What is wrong.
        why: &'static str,
    },
    /// A bound is exceeded.
    #[error("outputs{}: {what} exceeds {limit}", line.map(|line| format!(" line {line}")).unwrap_or_default())]
    TooLarge {
        /// From 1; absent when the file as a whole is meant.
        line: Option<usize>,
        /// What.
        what: &'static str,
        /// The bound with its unit.
        limit: String,
    },
    /// The file cannot be read.
    #[error("outputs file: {why}")]
    Unreadable {
        /// Why.
        why: String,
    },
}

/// Parses the file: lines split at the first `=`, both sides trimmed; blank lines and `#` lines
/// are skipped; the last of equal keys wins.
///
/// # Errors
/// With the number of the first bad line.
pub fn parse(file: &[u8]) -> Result<BTreeMap<String, String>, OutputsError> {
    if file.len() > MAX_FILE {
        return Err(too_large(None, "the file", format!("{MAX_FILE} bytes")));
    }
    let mut outputs = BTreeMap::new();
    for (index, line) in file.split(|byte| *byte == b'\n').enumerate() {
        let number = index + 1;
        let malformed = |why| OutputsError::Malformed { line: number, why };
        let line = std::str::from_utf8(line).map_err(|_| malformed("it is not UTF-8"))?.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (key, value) =
            line.split_once('=').ok_or_else(|| malformed("it is not of the form KEY=VALUE"))?;
        let (key, value) = (key.trim(), value.trim());
        if key.is_empty() {
            return Err(malformed("the key is empty"));
        }
        if key.len() > MAX_KEY {
            return Err(too_large(Some(number), "the key", format!("{MAX_KEY} bytes")));
        }
        if value.len() > MAX_VALUE {
            return Err(too_large(Some(number), "the value", format!("{MAX_VALUE} bytes")));
        }
        outputs.insert(key.to_owned(), value.to_owned());
        if outputs.len() > MAX_KEYS {
            return Err(too_large(Some(number), "the number of keys", MAX_KEYS.to_string()));
        }
    }
    let total: usize = outputs.iter().map(|(key, value)| key.len() + value.len()).sum();
    if total > MAX_TOTAL {
        return Err(too_large(None, "the sum of keys and values", format!("{MAX_TOTAL} bytes")));
    }
    Ok(outputs)
}

fn too_large(line: Option<usize>, what: &'static str, limit: String) -> OutputsError {
    OutputsError::TooLarge { line, what, limit }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(file: &str) -> String {
        parse(file.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn the_public_grammar() {
        let file = " A = 1 \r\n\n# note\n  # indented note\nB=x=y\nA=2\nEMPTY=\n";
        let outputs = parse(file.as_bytes()).unwrap();
        let pairs: Vec<(&str, &str)> = outputs.iter().map(|(k, v)| (&**k, &**v)).collect();
        assert_eq!(pairs, [("A", "2"), ("B", "x=y"), ("EMPTY", "")]);
        assert_eq!(parse(b"").unwrap().len(), 0);
    }

    #[test]
    fn bad_lines_are_named() {
        assert_eq!(refused("A=1\nrubbish\n"), "outputs line 2: it is not of the form KEY=VALUE");
        assert_eq!(refused("=1"), "outputs line 1: the key is empty");
        let error = parse(b"A=1\n\nB=\xff").unwrap_err();
        assert_eq!(error.to_string(), "outputs line 3: it is not UTF-8");
    }

    #[test]
    fn every_bound_holds_exactly() {
        let key = "k".repeat(MAX_KEY);
        assert!(parse(format!("{key}=v").as_bytes()).is_ok());
        assert_eq!(refused(&format!("{key}k=v")), "outputs line 1: the key exceeds 128 bytes");
        let value = "v".repeat(MAX_VALUE);
        assert!(parse(format!("k={value}").as_bytes()).is_ok());
        assert_eq!(refused(&format!("a=1\nk={value}v")), "outputs line 2: the value exceeds 8192 bytes");
        let many = |count: usize| (0..count).map(|n| format!("k{n}=v\n")).collect::<String>();
        assert_eq!(parse(many(MAX_KEYS).as_bytes()).unwrap().len(), MAX_KEYS);
        assert_eq!(refused(&many(MAX_KEYS + 1)), "outputs line 65: the number of keys exceeds 64");
        let large = |bytes: usize| (0..8).map(|n| format!("{n}={}\n", "v".repeat(bytes))).collect::<String>();
        assert!(parse(large(MAX_VALUE - 1).as_bytes()).is_ok());
        assert_eq!(refused(&large(MAX_VALUE)), "outputs: the sum of keys and values exceeds 65536 bytes");
        assert_eq!(refused(&"#".repeat(MAX_FILE + 1)), "outputs: the file exceeds 1048576 bytes");
    }
}
