//! Bounds, offsets and edges of captured output.

use proptest::prelude::*;

use super::*;

/// The smallest bound there is: two halves of what fits into memory.
const HALF: usize = IN_MEMORY;

fn store(directory: &Path) -> Store {
    Store::new(0, Arc::new(directory.to_owned()))
}

/// A byte that tells its offset.
fn byte(offset: usize) -> u8 {
    u8::try_from((offset / 7 + offset) % 251).expect("small")
}

fn fill(store: &mut Store, length: usize, step: usize) -> u64 {
    let all: Vec<u8> = (0..length).map(byte).collect();
    all.chunks(step.max(1)).map(|chunk| store.append(chunk)).sum()
}

/// Everything that a reader from `offset` gets, as (offset, byte).
fn read_all(store: &Store, mut offset: u64, most: usize) -> Vec<(u64, u8)> {
    let mut seen = Vec::new();
    loop {
        let piece = store.read(offset, most);
        if piece.data.is_empty() {
            return seen;
        }
        assert!(piece.offset >= offset && piece.data.len() <= most);
        offset = piece.offset + piece.data.len() as u64;
        seen.extend((piece.offset..).zip(piece.data));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn head_and_tail_are_kept_and_every_offset_is_true(
        length in 0..6 * HALF, step in 1..HALF * 2, most in 1..HALF * 2, from in 0..7 * HALF,
    ) {
        let directory = tempfile::tempdir().expect("tempdir");
        let mut store = store(directory.path());
        let dropped = fill(&mut store, length, step);
        prop_assert_eq!(dropped, length.saturating_sub(2 * HALF) as u64);
        let wanted: Vec<(u64, u8)> = (0..length)
            .filter(|at| length <= 2 * HALF || *at < HALF || *at >= length - HALF)
            .filter(|at| *at >= from)
            .map(|at| (at as u64, byte(at)))
            .collect();
        prop_assert!(read_all(&store, from as u64, most.max(64)) == wanted);
    }
}

#[test]
fn without_a_place_for_files_output_is_cut_and_nothing_fails() {
    let mut store = store(Path::new("/nonexistent"));
    fill(&mut store, 4 * HALF, HALF / 2);
    assert_eq!(store.total, 4 * HALF as u64);
    assert_eq!(read_all(&store, 0, HALF).len(), HALF, "what was in memory is still there");
    store.ended = true;
    assert!(store.read(store.total, 1).last);
}

#[test]
fn text_is_cut_between_characters_and_only_its_edges_are_forgiven() {
    let euro = "€".as_bytes();
    assert_eq!(text(&euro[1..], true, false), "");
    assert_eq!(text(&[&euro[2..], b"a"].concat(), true, false), "a");
    assert_eq!(text(&[b"a", &euro[..2]].concat(), false, true), "a", "the rest may still come");
    assert_eq!(text(&[b"a", &euro[..2]].concat(), false, false), "a\u{fffd}", "it did not");
    assert_eq!(text(b"a\xffb", true, true), "a\u{fffd}b");
}

/// The end of a Run may be known before the runtime has heard of what it wrote.
#[tokio::test]
async fn nothing_is_lost_of_a_run_that_is_over_at_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let capturer =
        Capturer::start(folder.path(), 0, Counter::default(), Counter::default()).expect("a thread");
    for round in 0..500 {
        let (capture, pipes, [stdout, stderr]) = capturer.open().expect("pipes");
        let pumps = pipes.drain();
        for (pipe, text) in [(stdout, b"out"), (stderr, b"err")] {
            assert_eq!(rustix::io::write(&pipe, text).expect("room"), 3);
        }
        pumps.finish().await;
        let read = |stream: &Stream| String::from_utf8(stream.read(0, 10).data).expect("text");
        assert_eq!((read(&capture.stdout), read(&capture.stderr)), ("out".into(), "err".into()), "{round}");
    }
}
