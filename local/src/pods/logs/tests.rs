use futures::StreamExt;
use serde_json::json;

use super::*;

fn pod() -> Value {
    json!({"metadata": {"name": "p", "uid": "u"}, "spec": {"containers": [{"name": "c"}]}})
}

async fn text(book: &LogBook, query: LogQuery) -> String {
    let chunks: Vec<_> = book.read(&pod(), query).unwrap().collect().await;
    let bytes: Vec<u8> = chunks.into_iter().flat_map(|c| c.unwrap()).collect();
    String::from_utf8(bytes).unwrap()
}

fn lines(texts: &[&str]) -> Vec<(Vec<u8>, bool)> {
    texts.iter().map(|t| (t.as_bytes().to_vec(), true)).collect()
}

#[tokio::test]
async fn tail_previous_limit_and_times() {
    let folder = tempfile::tempdir().unwrap();
    let book = LogBook::new(folder.path());
    assert!(book.read(&pod(), LogQuery::default()).is_err(), "nothing has started");
    book.writer("u", "c", 0).unwrap().write("stdout", &lines(&["old"])).unwrap();
    let mut writer = book.writer("u", "c", 1).unwrap();
    writer.write("stdout", &lines(&["one", "two"])).unwrap();
    writer.write("stderr", &[(b"thr".to_vec(), false), (b"ee".to_vec(), true)]).unwrap();
    assert_eq!(text(&book, LogQuery::default()).await, "one\ntwo\nthree\n");
    assert_eq!(text(&book, LogQuery { tail: Some(2), ..LogQuery::default() }).await, "two\nthree\n");
    assert_eq!(text(&book, LogQuery { limit_bytes: Some(5), ..LogQuery::default() }).await, "one\nt");
    assert_eq!(text(&book, LogQuery { previous: true, ..LogQuery::default() }).await, "old\n");
    let timed = text(&book, LogQuery { timestamps: true, tail: Some(1), ..LogQuery::default() }).await;
    assert!(timed.ends_with("Z three\n"), "{timed}");
    let later = Timestamp::now() + jiff::SignedDuration::from_secs(60);
    assert_eq!(text(&book, LogQuery { since: Some(later), ..LogQuery::default() }).await, "");
}

#[tokio::test]
async fn following_ends_with_the_container_and_survives_a_full_file() {
    let folder = tempfile::tempdir().unwrap();
    let book = LogBook::new(folder.path());
    let mut writer = book.writer("u", "c", 0).unwrap();
    writer.write("stdout", &lines(&["first"])).unwrap();
    let query = LogQuery { follow: true, ..LogQuery::default() };
    let mut stream = Box::pin(book.read(&pod(), query).unwrap());
    assert_eq!(stream.next().await.unwrap().unwrap(), "first\n");
    let big = "x".repeat(FILE_LIMIT as usize);
    writer.write("stdout", &lines(&[&big])).unwrap();
    writer.write("stdout", &lines(&["last"])).unwrap();
    drop(writer);
    let mut rest = Vec::new();
    while let Some(chunk) = stream.next().await {
        rest.extend_from_slice(&chunk.unwrap());
    }
    assert!(rest.ends_with(b"last\n"));
}

#[test]
fn lines_are_cut_at_newlines_and_at_the_limit() {
    let mut cutter = LineCutter::default();
    assert_eq!(cutter.push(b"a\nb"), [(b"a".to_vec(), true)]);
    assert_eq!(cutter.push(b"c\n"), [(b"bc".to_vec(), true)]);
    let long = vec![b'x'; LINE_LIMIT + 1];
    assert_eq!(cutter.push(&long), [(vec![b'x'; LINE_LIMIT], false)]);
    assert_eq!(cutter.finish(), [(b"x".to_vec(), true)]);
    assert!(cutter.finish().is_empty());
}
