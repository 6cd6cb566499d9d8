use super::*;

fn output(entry: Option<Entry>) -> Line {
    match entry {
        Some(Entry::Output(line)) => line,
        other => panic!("{other:?}"),
    }
}

#[test]
fn output_keeps_its_bytes_and_its_stream() {
    let line = br#"{"run_uid":"u1","run_name":"a","namespace":"n","runtime":"bash","pod":"p","attempt":2,"stream":"stderr","message":"  caf\u00e9\t","time":"2026-08-08T10:00:00.123456Z"}"#;
    let line = output(parse(line, "u1"));
    assert_eq!(
        (line.stream, line.attempt, line.bytes.as_slice()),
        (Stream::Err, Some(2), "  café\t\n".as_bytes())
    );
    assert_eq!(line.time.unwrap().to_string(), "2026-08-08T10:00:00.123456Z");
    let partial = br#"{"run_uid":"u1","stream":"stdout","message":"no end","partial":true}"#;
    assert_eq!(output(parse(partial, "u1")).bytes, b"no end");
    let raw = br#"{"run_uid":"u1","stream":"stdout","message":"/wA=","encoding":"base64","partial":true}"#;
    assert_eq!(output(parse(raw, "u1")).bytes, [0xff, 0]);
}

#[test]
fn other_runs_and_other_lines_are_left_alone() {
    assert_eq!(
        parse(br#"{"run_uid":"u2","stream":"stdout","message":"u1"}"#, "u1"),
        None,
        "u1 is only quoted"
    );
    assert_eq!(parse(b"level=info u1 started", "u1"), None);
    assert_eq!(
        parse(br#"{"level":"info","run_uid":"u1","message":"claimed"}"#, "u1"),
        None,
        "runtimed's own log"
    );
    assert_eq!(parse(br#"{"run_uid":"u1","stream":"stdout"#, "u1"), None, "cut off");
    assert_eq!(parse(br#"{"run_uid":"","stream":"stdout","message":"x"}"#, ""), None);
}

#[test]
fn the_end_of_an_attempt_is_told() {
    let end = br#"{"event":"end","run_uid":"u1","run_name":"a","namespace":"n","attempt":3}"#;
    assert_eq!(parse(end, "u1"), Some(Entry::End { attempt: 3, assignment: None }));
    let end = br#"{"event":"end","run_uid":"u1","attempt":1,"assignment":4}"#;
    assert_eq!(parse(end, "u1"), Some(Entry::End { attempt: 1, assignment: Some(4) }));
}

/// Blocks end anywhere; the lines are the same.
#[test]
fn lines_are_put_together_from_blocks() {
    let line = |text: &str| format!(r#"{{"run_uid":"u1","stream":"stdout","message":"{text}"}}"#);
    let text = format!("{}\n\n{}\nnoise\n{}\n{}", line("one"), line("two"), line("three"), line("no end"));
    for size in [1, 2, 7, 50, text.len()] {
        let mut reader = Reader::new("u1");
        let blocks = text.as_bytes().chunks(size);
        let read: Vec<Entry> = blocks.flat_map(|block| reader.read(block, Instant::now())).collect();
        let texts: Vec<Vec<u8>> = read.into_iter().map(|entry| output(Some(entry)).bytes).collect();
        assert_eq!(texts, [b"one\n".to_vec(), b"two\n".to_vec(), b"three\n".to_vec()], "{size}");
    }
}

#[test]
fn an_endless_line_takes_bounded_memory() {
    let mut reader = Reader::new("u1");
    for _ in 0..10 {
        assert_eq!(reader.read(&vec![b'x'; MAX_LINE / 4], Instant::now()), []);
    }
    assert_eq!(reader.held.len(), MAX_LINE);
    assert_eq!(reader.read(b"\n", Instant::now()), []);
    assert!(reader.held.is_empty());
}

/// That a busy log moves on is told now and then, so that a quiet Run's end is not taken for silence.
#[test]
fn the_time_of_other_lines_is_looked_at_now_and_then() {
    let other = b"{\"run_uid\":\"u2\",\"stream\":\"stdout\",\"time\":\"1970-01-01T00:00:07Z\"}\n";
    let (mut reader, start) = (Reader::new("u1"), Instant::now());
    let reached = vec![Entry::Reached(Timestamp::from_second(7).unwrap())];
    assert_eq!(reader.read(other, start), reached);
    assert_eq!(reader.read(&other.repeat(100), start + GLANCE / 2), []);
    assert_eq!(reader.read(&other.repeat(100), start + GLANCE), reached);
}

/// A stream that breaks is read again from before the last line; nothing is shown twice or lost.
#[test]
fn a_renewed_stream_goes_on_where_it_was() {
    let at = |n: i64| Line {
        stream: Stream::Out,
        attempt: Some(1),
        time: Timestamp::from_second(n).ok(),
        offset: None,
        bytes: Vec::new(),
    };
    let log = [at(1), at(2), at(2), at(2), at(3), at(3), at(4)];
    for broken_after in 0..=log.len() {
        let mut position = Position::default();
        let is_new = |position: &mut Position, line: &&Line| position.take(line) != Take::Seen;
        let mut shown = log[..broken_after].iter().filter(|line| is_new(&mut position, line)).count();
        position.restart();
        shown += log.iter().filter(|line| is_new(&mut position, line)).count();
        assert_eq!(shown, log.len(), "broken after {broken_after}");
        position.restart();
        assert_eq!(
            log.iter().filter(|line| is_new(&mut position, line)).count(),
            0,
            "read to the end already"
        );
    }
    let timeless = Line { time: None, ..at(1) };
    let mut position = Position::default();
    assert!(position.take(&timeless) != Take::Seen && position.take(&timeless) != Take::Seen);
}

fn at_offset(second: i64, offset: u64, stream: Stream, text: &str) -> Line {
    Line {
        stream,
        attempt: Some(1),
        time: Timestamp::from_second(second).ok(),
        offset: Some(offset),
        bytes: text.as_bytes().to_vec(),
    }
}

/// A restarted runtimed reads the server's output from the beginning and prints it again, later.
#[test]
fn what_is_printed_again_after_a_restart_is_shown_once() {
    let whole = Take::New { lost: 0 };
    let mut position = Position::default();
    assert_eq!(position.take(&at_offset(1, 0, Stream::Out, "four\n")), whole);
    assert_eq!(position.take(&at_offset(1, 5, Stream::Out, "abc\n")), whole);
    assert_eq!(
        position.take(&at_offset(2, 0, Stream::Err, "x\n")),
        whole,
        "each stream counts its own bytes"
    );
    assert_eq!(position.take(&at_offset(8, 0, Stream::Out, "four\n")), Take::Seen);
    assert_eq!(position.take(&at_offset(8, 5, Stream::Out, "abc\n")), Take::Seen);
    assert_eq!(position.take(&at_offset(8, 9, Stream::Out, "new\n")), whole);
    // Handed back and bound again: the same attempt prints from the beginning.
    position.ended(1);
    assert_eq!(position.take(&at_offset(9, 0, Stream::Out, "four\n")), whole);
}

/// A log that turned over before it was read has holes, and they are told.
#[test]
fn what_is_missing_is_counted() {
    let mut position = Position::default();
    assert_eq!(position.take(&at_offset(1, 100, Stream::Out, "abc\n")), Take::New { lost: 100 });
    assert_eq!(position.take(&at_offset(1, 110, Stream::Out, "x\u{fffd}\n")), Take::New { lost: 6 });
    let unknown = position.take(&at_offset(1, 200, Stream::Out, "y\n"));
    assert_eq!(unknown, Take::New { lost: 0 }, "what was replaced had another length");
    assert_eq!(position.take(&at_offset(1, 203, Stream::Out, "z\n")), Take::New { lost: 1 });
}
