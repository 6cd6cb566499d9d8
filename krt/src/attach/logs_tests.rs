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

#[tokio::test]
async fn lines_are_split_and_bounded() {
    let mut text = b"one\n\ntwo\r\n".to_vec();
    text.extend(vec![b'x'; MAX_LINE + 10]);
    text.extend(b"\nlast");
    let mut from = futures::io::BufReader::new(text.as_slice());
    let (mut line, mut read) = (Vec::new(), Vec::new());
    while read_line(&mut from, &mut line).await.unwrap() {
        read.push(line.clone());
    }
    assert_eq!(read.len(), 5);
    assert_eq!(read[..3], [b"one".to_vec(), b"".to_vec(), b"two\r".to_vec()]);
    assert_eq!((read[3].len(), read[4].as_slice()), (MAX_LINE, b"last".as_slice()));
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
        let mut shown = log[..broken_after].iter().filter(|line| position.is_new(line)).count();
        position.restart();
        shown += log.iter().filter(|line| position.is_new(line)).count();
        assert_eq!(shown, log.len(), "broken after {broken_after}");
        position.restart();
        assert_eq!(log.iter().filter(|line| position.is_new(line)).count(), 0, "read to the end already");
    }
    let timeless = Line { time: None, ..at(1) };
    let mut position = Position::default();
    assert!(position.is_new(&timeless) && position.is_new(&timeless));
}

/// A restarted runtimed reads the server's output from the beginning and prints it again, later.
#[test]
fn what_is_printed_again_after_a_restart_is_shown_once() {
    let line = |second: i64, offset: u64, stream: Stream| Line {
        stream,
        attempt: Some(1),
        time: Timestamp::from_second(second).ok(),
        offset: Some(offset),
        bytes: Vec::new(),
    };
    let mut position = Position::default();
    assert!(position.is_new(&line(1, 0, Stream::Out)) && position.is_new(&line(1, 5, Stream::Out)));
    assert!(position.is_new(&line(2, 0, Stream::Err)), "each stream counts its own bytes");
    for (offset, new) in [(0, false), (5, false), (9, true)] {
        assert_eq!(position.is_new(&line(8, offset, Stream::Out)), new, "{offset}");
    }
    // Handed back and bound again: the same attempt prints from the beginning.
    position.ended(1);
    assert!(position.is_new(&line(9, 0, Stream::Out)));
}
