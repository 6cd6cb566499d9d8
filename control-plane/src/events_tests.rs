use super::*;

fn note(uid: &str, reason: &str, message: &str) -> Note {
    let about =
        About { kind: "Run", namespace: "team".into(), name: format!("run-{uid}"), uid: uid.to_owned() };
    Note { about, warning: true, reason: reason.into(), message: message.into() }
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn the_same_news_is_one_event_that_counts() {
    let mut correlator = Correlator::default();
    let first = correlator.step(&note("a", "PodGone", "pod p is gone"), SECOND).unwrap();
    assert_eq!(first.count, 1);
    assert!(first.name.starts_with("run-a."), "{}", first.name);
    let second = correlator.step(&note("a", "PodGone", "pod q is gone"), 2 * SECOND).unwrap();
    assert_eq!(second, Step { name: first.name.clone(), count: 2 });
    for other in [note("a", "Failed", "x"), note("b", "PodGone", "x")] {
        let step = correlator.step(&other, 3 * SECOND).unwrap();
        assert_eq!(step.count, 1);
        assert_ne!(step.name, first.name);
    }
    let later = correlator.step(&note("a", "PodGone", "again"), WINDOW * 2).unwrap();
    assert_eq!(later.count, 1, "too long ago to be the same");
}

#[test]
fn one_object_that_shouts_is_cut_off_and_its_count_goes_on() {
    let mut correlator = Correlator::default();
    let written = (0..100).filter_map(|_| correlator.step(&note("a", "Unschedulable", "x"), SECOND));
    assert_eq!(written.last().unwrap().count, PER_OBJECT.burst as i32);
    assert!(correlator.step(&note("b", "Unschedulable", "x"), SECOND).is_some(), "others may still speak");
    let later = correlator.step(&note("a", "Unschedulable", "x"), SECOND + PER_OBJECT.every).unwrap();
    assert_eq!(later.count, 101);
}

#[test]
fn ten_thousand_failed_runs_are_a_bounded_number_of_events() {
    let mut correlator = Correlator::default();
    let mut written = 0;
    for i in 0..10_000_u32 {
        let now = SECOND + Duration::from_millis(u64::from(i));
        written += u32::from(correlator.step(&note(&format!("r{i}"), "Failed", "x"), now).is_some());
    }
    // The burst, and what ten seconds give back.
    let most = IN_ALL.burst as u32 + 10_000 / IN_ALL.every.as_millis() as u32 + 1;
    assert!((100..=most).contains(&written), "{written}");
    correlator.step(&note("last", "Failed", "x"), WINDOW * 3);
    assert!(correlator.series.len() <= 1 && correlator.objects.len() <= 1, "memory is given back");
}

#[test]
fn a_failed_write_begins_anew() {
    let mut correlator = Correlator::default();
    let one = note("a", "PodGone", "x");
    correlator.step(&one, SECOND).unwrap();
    correlator.forget(&one);
    assert_eq!(correlator.step(&one, SECOND).unwrap().count, 1);
}

#[test]
fn an_event_names_its_object_and_fits_the_api() {
    let mut long = note("a", "Failed", &"ä".repeat(2000));
    long.about.kind = "Runtime";
    let step = Step { name: "x".into(), count: 1 };
    let event = event("kruntimes-controller", "pod-1", &long, &step, Timestamp::UNIX_EPOCH);
    assert_eq!(event.involved_object.api_version.as_deref(), Some("kruntimes.io/v1alpha1"));
    assert_eq!(event.involved_object.uid.as_deref(), Some("a"));
    assert_eq!(event.metadata.namespace, event.involved_object.namespace);
    assert_eq!(event.type_.as_deref(), Some("Warning"));
    assert_eq!(event.message.unwrap().len(), MAX_MESSAGE);
    let patch = again(&long, &Step { name: "x".into(), count: 3 }, Timestamp::UNIX_EPOCH);
    assert_eq!((patch["count"].as_i64(), patch["lastTimestamp"].is_string()), (Some(3), true));
}
