//! Bytes of one stream into lines of bounded length.

/// Bytes of a line at most; a longer one is cut into pieces.
pub(super) const MAX_LINE: usize = 16 << 10;

/// A line, or a piece of one.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Piece<'a> {
    /// Of its first byte in the stream.
    pub offset: u64,
    pub bytes: &'a [u8],
    /// More of the line follows.
    pub partial: bool,
}

/// Splits one stream.
#[derive(Debug, Default)]
pub(super) struct Lines {
    /// The beginning of an unfinished line.
    held: Vec<u8>,
    /// Of the next byte that is expected.
    at: u64,
}

impl Lines {
    /// Where to go on reading.
    pub(super) fn next_offset(&self) -> u64 {
        self.at
    }

    /// Takes bytes at `offset` and emits what is complete. Bytes that were seen already are
    /// skipped; a jump is reported as a line of its own.
    pub(super) fn push(&mut self, offset: u64, bytes: &[u8], emit: &mut impl FnMut(Piece<'_>)) {
        if offset > self.at {
            self.finish(emit);
            let note = format!("[output truncated: {} bytes were dropped]", offset - self.at);
            emit(Piece { offset: self.at, bytes: note.as_bytes(), partial: false });
            self.at = offset;
        }
        let seen = usize::try_from(self.at - offset).unwrap_or(usize::MAX);
        let Some(mut rest) = bytes.get(seen..) else { return };
        while !rest.is_empty() {
            let room = MAX_LINE - self.held.len();
            let end = rest.iter().take(room + 1).position(|byte| *byte == b'\n');
            let (taken, skipped) = end.map_or((room.min(rest.len()), 0), |end| (end, 1));
            let offset = self.at - self.held.len() as u64;
            let whole = end.is_some();
            // A full line is told only when it is known whether its newline follows.
            let full = !whole && taken == room && rest.len() > room;
            if (whole || full) && self.held.is_empty() {
                emit(Piece { offset, bytes: &rest[..taken], partial: full });
            } else {
                self.held.extend_from_slice(&rest[..taken]);
                if whole || full {
                    emit(Piece { offset, bytes: &self.held, partial: full });
                    self.held.clear();
                }
            }
            self.at += (taken + skipped) as u64;
            rest = &rest[taken + skipped..];
        }
    }

    /// The last line, when it has no newline.
    pub(super) fn finish(&mut self, emit: &mut impl FnMut(Piece<'_>)) {
        if !self.held.is_empty() {
            let offset = self.at - self.held.len() as u64;
            emit(Piece { offset, bytes: &self.held, partial: false });
            self.held.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn split(pieces: &[(u64, &[u8])]) -> Vec<(u64, String, bool)> {
        let mut lines = Lines::default();
        let mut seen = Vec::new();
        let mut emit = |piece: Piece<'_>| {
            seen.push((piece.offset, String::from_utf8_lossy(piece.bytes).into_owned(), piece.partial));
        };
        for (offset, bytes) in pieces {
            lines.push(*offset, bytes, &mut emit);
        }
        lines.finish(&mut emit);
        seen
    }

    #[test]
    fn lines_carry_their_offsets() {
        let seen = split(&[(0, b"one\ntw"), (6, b"o\n\nlast")]);
        let expected = [(0, "one"), (4, "two"), (8, ""), (9, "last")];
        assert_eq!(seen, expected.map(|(offset, text)| (offset, text.to_owned(), false)));
    }

    #[test]
    fn jumps_are_told_and_repeats_are_not() {
        let seen = split(&[(0, b"ab\n"), (0, b"ab\ncd\n"), (10, b"ef\n")]);
        let texts: Vec<&str> = seen.iter().map(|(_, text, _)| &**text).collect();
        assert_eq!(texts, ["ab", "cd", "[output truncated: 4 bytes were dropped]", "ef"]);
    }

    #[test]
    fn a_line_of_exactly_the_bound_is_whole() {
        let line = vec![b'x'; MAX_LINE];
        let with_newline = [line.clone(), b"\n".to_vec()].concat();
        assert_eq!(split(&[(0, &with_newline)]).iter().map(|l| l.2).collect::<Vec<_>>(), [false]);
        let longer = [line, b"y\n".to_vec()].concat();
        assert_eq!(
            split(&[(0, &longer)]).iter().map(|l| (l.1.len(), l.2)).collect::<Vec<_>>(),
            [(MAX_LINE, true), (1, false)]
        );
    }

    proptest! {
        #[test]
        fn nothing_is_lost_or_invented(cuts in prop::collection::vec((0usize..40_000, any::<bool>()), 0..6)) {
            let mut text: Vec<u8> = Vec::new();
            let mut pushes: Vec<(u64, Vec<u8>)> = Vec::new();
            for (length, newline) in cuts {
                let mut bytes = vec![b'a'; length];
                if newline { bytes.push(b'\n'); }
                pushes.push((text.len() as u64, bytes.clone()));
                text.extend(bytes);
            }
            let mut lines = Lines::default();
            let mut joined: Vec<u8> = Vec::new();
            let mut emit = |piece: Piece<'_>| {
                assert!(piece.bytes.len() <= MAX_LINE);
                joined.extend_from_slice(piece.bytes);
                if !piece.partial { joined.push(b'\n'); }
            };
            for (offset, bytes) in &pushes { lines.push(*offset, bytes, &mut emit); }
            lines.finish(&mut emit);
            if !text.is_empty() && text.last() != Some(&b'\n') { text.push(b'\n'); }
            prop_assert_eq!(joined, text);
        }
    }
}
