//! What of the server's own environment reaches a Run: an allow-list, never the whole.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;

/// Names that always pass. A trailing `*` stands for any ending.
const PASSED: &[&str] = &[
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "LANG",
    "LANGUAGE",
    "LC_*",
    "TZ",
    "TMPDIR",
    "LD_LIBRARY_PATH",
];

/// The variables that pass, read once at start.
#[derive(Clone, Debug, Default)]
pub(crate) struct PassList {
    variables: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl PassList {
    /// Those of `environment` that the kit's list or `more` names. Variables of the kit itself never pass.
    pub(crate) fn new(environment: impl Iterator<Item = (OsString, OsString)>, more: &[String]) -> Self {
        let patterns: Vec<&str> = PASSED.iter().copied().chain(more.iter().map(String::as_str)).collect();
        let passes = |name: &[u8]| {
            let own = name.starts_with(b"KRUNTIME_");
            !own && patterns.iter().any(|pattern| matches(pattern.as_bytes(), name))
        };
        let variables = environment
            .map(|(name, value)| (name.into_vec(), value.into_vec()))
            .filter(|(name, _)| passes(name))
            .collect();
        Self { variables }
    }

    pub(crate) fn variables(&self) -> BTreeMap<Vec<u8>, Vec<u8>> {
        self.variables.clone()
    }
}

fn matches(pattern: &[u8], name: &[u8]) -> bool {
    match pattern.strip_suffix(b"*") {
        Some(prefix) => name.starts_with(prefix),
        None => name == pattern,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_listed_names_pass_and_never_the_kits_own() {
        let environment = ["PATH", "LC_ALL", "HF_HOME", "SECRET", "KRUNTIME_SOCKET_DIR", "PATHS", "LC"]
            .map(|name| (OsString::from(name), OsString::from("x")));
        let more = ["HF_*".to_owned(), "KRUNTIME_*".to_owned()];
        let passed = PassList::new(environment.into_iter(), &more).variables();
        let names: Vec<_> = passed.keys().map(|name| String::from_utf8_lossy(name).into_owned()).collect();
        assert_eq!(names, ["HF_HOME", "LC_ALL", "PATH"]);
    }
}
