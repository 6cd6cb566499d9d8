//! Generated files are what the generator makes today.

use std::collections::BTreeMap;

use anyhow::Result;

use super::Finding;
use crate::generate;
use crate::workspace::Workspace;

pub fn hold(workspace: &Workspace) -> Result<Vec<Finding>> {
    let expected = generate::files(workspace)?;
    let found = expected.keys().map(|path| (path.clone(), workspace.read(path))).collect();
    Ok(findings(&expected, &found))
}

pub fn findings(expected: &BTreeMap<String, String>, found: &BTreeMap<String, String>) -> Vec<Finding> {
    let differs = expected.iter().filter_map(|(path, text)| {
        let there = found.get(path).map_or("", String::as_str);
        let line = text.lines().zip(there.lines()).take_while(|(new, old)| new == old).count() + 1;
        (text != there)
            .then(|| Finding::new(format!("{path}:{line}"), "run `cargo xtask gen` and commit the result"))
    });
    differs.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_was_edited_or_is_missing_is_found() {
        let expected =
            BTreeMap::from([("a".to_owned(), "1\n2\n".to_owned()), ("b".to_owned(), "3\n".to_owned())]);
        assert_eq!(findings(&expected, &expected), []);
        let edited = BTreeMap::from([("a".to_owned(), "1\n9\n".to_owned())]);
        let places: Vec<_> = findings(&expected, &edited).into_iter().map(|finding| finding.place).collect();
        assert_eq!(places, ["a:2", "b:1"]);
    }
}
