use serde_json::json;

use super::*;
use crate::kinds::Kinds;

fn pod() -> Entry {
    let kinds = Kinds::new(&[]).unwrap();
    let pod = json!({
        "metadata": {"name": "p", "namespace": "n", "labels": {"app": "web", "tier": "front"}},
        "spec": {"nodeName": "local"}, "status": {"phase": "Running"},
    });
    Entry::new(kinds.core("pods"), &pod, bytes::Bytes::new())
}

fn matches(labels: &str, fields: &str) -> bool {
    let kinds = Kinds::new(&[]).unwrap();
    Selector::parse(kinds.core("pods"), labels, fields).unwrap().matches(&pod())
}

#[test]
fn labels() {
    for (selector, wanted) in [
        ("", true),
        ("app=web", true),
        ("app==web,tier=front", true),
        ("app!=web", false),
        ("other!=web", true),
        ("app", true),
        ("!app", false),
        ("!other", true),
        ("app in (db, web)", true),
        ("app notin (db,web)", false),
        ("other notin (x)", true),
        ("app in (web),tier", true),
    ] {
        assert_eq!(matches(selector, ""), wanted, "{selector}");
    }
}

#[test]
fn fields() {
    for (selector, wanted) in [
        ("metadata.name=p", true),
        ("metadata.namespace!=n", false),
        ("status.phase==Running,spec.nodeName=local", true),
        ("status.phase!=Succeeded,status.phase!=Failed", true),
        ("status.podIP=", true),
        ("spec.serviceAccountName=x", false),
    ] {
        assert_eq!(matches("", selector), wanted, "{selector}");
    }
}

#[test]
fn nonsense_is_refused() {
    let kinds = Kinds::new(&[]).unwrap();
    for (labels, fields) in [
        ("a in x", ""),
        ("a near (b)", ""),
        ("a b", ""),
        ("=b", ""),
        ("", "spec.image=x"),
        ("", "status.phase"),
    ] {
        assert!(Selector::parse(kinds.core("pods"), labels, fields).is_err(), "{labels:?} {fields:?}");
    }
}
