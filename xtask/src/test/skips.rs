//! The gate: a test that says `skipped: reason` must be in the list, or the run fails.

use anyhow::{Result, bail};

use super::report::Skipped;

pub const LIST: &str = "tests/expected-skips.txt";

/// `TEST | PART OF THE REASON | WHY THAT IS ALL RIGHT`; a star at the end of TEST stands for the rest of it.
#[derive(Debug, PartialEq, Eq)]
pub struct Allowed {
    test: String,
    reason: String,
}

pub fn allowed(text: &str) -> Result<Vec<Allowed>> {
    let mut list = Vec::new();
    for line in text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#')) {
        let parts: Vec<_> = line.split('|').map(str::trim).collect();
        match parts.as_slice() {
            [test, reason, why] if !test.is_empty() && !reason.is_empty() && !why.is_empty() => {
                list.push(Allowed { test: (*test).to_owned(), reason: (*reason).to_owned() });
            }
            _ => bail!("{LIST}: `{line}` is not TEST | PART OF THE REASON | WHY"),
        }
    }
    Ok(list)
}

pub fn unexpected<'a>(skipped: &'a [Skipped], allowed: &[Allowed]) -> Vec<&'a Skipped> {
    let is_allowed = |skipped: &Skipped| {
        allowed.iter().any(|allowed| {
            let test = match allowed.test.strip_suffix('*') {
                Some(start) => skipped.test.starts_with(start),
                None => skipped.test == allowed.test,
            };
            test && skipped.reason.contains(&allowed.reason)
        })
    };
    skipped.iter().filter(|skipped| !is_allowed(skipped)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_in_the_list_fails_the_run() {
        let skipped = |test: &str, reason: &str| Skipped {
            test: test.into(),
            reason: reason.into(),
            is_ignored: false,
        };
        let list =
            allowed("# c\n\nkernel::* | no cgroup v2 | runs on the node\nexact | GPU | no GPU in CI\n")
                .unwrap();
        let all = [
            skipped("kernel::limits", "no cgroup v2 here"),
            skipped("kernel::limits", "no time"),
            skipped("exact", "needs a GPU"),
            skipped("exactly", "needs a GPU"),
        ];
        assert_eq!(unexpected(&all, &list), [&all[1], &all[3]]);
    }

    #[test]
    fn a_line_without_a_why_is_refused() {
        assert!(allowed("kernel::limits | no cgroup v2").is_err());
    }
}
