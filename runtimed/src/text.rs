//! Cutting text to a bound without cutting a character.

// What the kinds have room for, in bytes: a server's many words must not keep a status from being written.
/// Names and ids.
pub const NAME: usize = 253;
/// Labels: sources, versions, amounts.
pub const LABEL: usize = 63;
/// Words: units, axes, states.
pub const WORD: usize = 32;
/// Names of figures.
pub const FIGURE: usize = 300;
/// Sentences that say why.
pub const REASON: usize = 1024;
/// Addresses.
pub const URL: usize = 2048;

/// At most `limit` last bytes of `text`.
pub fn last_bytes(text: &str, limit: usize) -> &str {
    let mut start = text.len().saturating_sub(limit);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    &text[start..]
}

/// At most `limit` first bytes of `text`.
pub fn first_bytes(text: &str, limit: usize) -> &str {
    let mut end = limit.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// As [`first_bytes`], for keeping.
pub fn cut(text: &str, limit: usize) -> String {
    first_bytes(text, limit).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_stay_whole() {
        assert_eq!(last_bytes("aéb", 2), "b");
        assert_eq!(last_bytes("aéb", 3), "éb");
        assert_eq!(last_bytes("ab", 9), "ab");
        assert_eq!(first_bytes("aéb", 2), "a");
        assert_eq!(first_bytes("aéb", 3), "aé");
        assert_eq!(first_bytes("", 3), "");
    }
}
