use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;
use serde_json::json;

use super::*;

fn open(folder: &Path) -> Store {
    let kinds = Arc::new(Kinds::new(&[]).unwrap());
    Store::open(&folder.join("db.redb"), kinds).unwrap()
}

fn object(name: &str, value: u32) -> Value {
    json!({"metadata": {"name": name, "namespace": "n", "uid": format!("uid-{name}")}, "data": {"v": value.to_string()}})
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// The kind of all objects here.
fn maps(store: &Store) -> Arc<Kind> {
    Arc::clone(store.kinds.core("configmaps"))
}

#[derive(Debug, Clone)]
enum Op {
    Put(u8, u32),
    Remove(u8),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![3 => (0u8..6, any::<u32>()).prop_map(|(k, v)| Op::Put(k, v)), 1 => (0u8..6).prop_map(Op::Remove)]
}

/// Does `op` if it applies to what is there.
async fn apply(store: &Store, op: &Op) {
    let kind = maps(store);
    let (Op::Put(number, _) | Op::Remove(number)) = op;
    let key = Key::new("n", &format!("k{number}"));
    match (op, store.get(&kind, &key)) {
        (Op::Put(_, value), found) => {
            let expect = found.map_or(Expect::Absent, |e| Expect::Revision(e.revision));
            store.put(&kind, expect, object(&key.name, *value)).await.unwrap();
        }
        (Op::Remove(_), Some(entry)) => drop(store.remove(&kind, &key, entry.revision).await.unwrap()),
        (Op::Remove(_), None) => {}
    }
}

fn state(store: &Store) -> BTreeMap<Key, (u64, Bytes)> {
    store
        .list(&maps(store), "", None)
        .0
        .iter()
        .map(|e| (e.key.clone(), (e.revision, e.json.clone())))
        .collect()
}

fn is_too_old<T>(result: &Result<T, StoreError>) -> bool {
    matches!(result, Err(StoreError::TooOld { .. }))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// From any point on, the events turn the list of that point into the present one; revisions grow
    /// by one; and a store opened anew holds the same objects and never repeats a revision.
    #[test]
    fn events_are_the_difference_of_lists(ops in prop::collection::vec(op(), 1..60), cut in 0usize..60) {
        let folder = tempfile::tempdir().unwrap();
        let before_close = runtime().block_on(async {
            let store = open(folder.path());
            let kind = maps(&store);
            // One write at least: a store that never gave out a revision has none to repeat.
            store.put(&kind, Expect::Absent, object("first", 0)).await.unwrap();
            let (mut replica, mut cursor) = (state(&store), store.published());
            for (index, op) in ops.iter().enumerate() {
                if index == cut {
                    replica = state(&store);
                    cursor = store.list(&kind, "", None).1;
                }
                apply(&store, op).await;
            }
            let mut last = cursor;
            loop {
                let (events, complete) = store.events(&kind, cursor, 3).unwrap();
                for event in &events {
                    prop_assert_eq!(event.entry.revision, last + 1);
                    last = event.entry.revision;
                    let key = event.entry.key.clone();
                    prop_assert_eq!(event.previous.is_some(), replica.contains_key(&key));
                    match event.change {
                        Change::Deleted => drop(replica.remove(&key)),
                        _ => drop(replica.insert(key, (event.entry.revision, event.entry.json.clone()))),
                    }
                }
                cursor = complete;
                if events.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(&replica, &state(&store));
            store.close();
            Ok((state(&store), last))
        })?;
        let again = open(folder.path());
        prop_assert_eq!(&before_close.0, &state(&again));
        prop_assert!(again.published() > before_close.1);
        let late = again.events(&maps(&again), before_close.1, 1);
        prop_assert!(is_too_old(&late));
    }
}

#[tokio::test]
async fn a_write_needs_the_state_it_expects() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let kind = maps(&store);
    let first = store.put(&kind, Expect::Absent, object("a", 1)).await.unwrap();
    let changed = |r: Result<Arc<Entry>, StoreError>| matches!(r, Err(StoreError::Changed));
    assert!(changed(store.put(&kind, Expect::Absent, object("a", 2)).await));
    let second = store.put(&kind, Expect::Revision(first.revision), object("a", 2)).await.unwrap();
    assert!(changed(store.put(&kind, Expect::Revision(first.revision), object("a", 3)).await));
    assert!(changed(store.remove(&kind, &first.key, first.revision).await));
    assert!(changed(store.remove(&kind, &Key::new("n", "other"), 1).await));
    store.remove(&kind, &second.key, second.revision).await.unwrap();
    assert!(store.get(&kind, &second.key).is_none());
}

#[tokio::test]
async fn what_has_left_the_history_is_too_old() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let kind = maps(&store);
    let start = store.published();
    for value in 0..5 {
        apply(&store, &Op::Put(1, value)).await;
    }
    assert_eq!(store.events(&kind, start, 100).unwrap().0.len(), 5);
    store.forget_history();
    assert!(matches!(store.events(&kind, start, 100), Err(StoreError::TooOld { .. })));
    assert!(store.events(&kind, store.published(), 100).unwrap().0.is_empty());
}

#[tokio::test]
async fn the_history_is_bounded() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let kind = maps(&store);
    let start = store.published();
    for value in 0..(HISTORY as u32 + 10) {
        apply(&store, &Op::Put(1, value)).await;
    }
    assert!(matches!(store.events(&kind, start, 1), Err(StoreError::TooOld { .. })));
    assert!(store.events(&kind, start + 10, 1).is_ok());
}

#[tokio::test]
async fn owners_are_indexed() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let kind = maps(&store);
    let owner = store.put(&kind, Expect::Absent, object("owner", 1)).await.unwrap();
    let mut child = object("child", 1);
    child["metadata"]["ownerReferences"] = json!([{"uid": owner.uid}]);
    let child = store.put(&kind, Expect::Absent, child).await.unwrap();
    assert_eq!(store.dependents(&owner.uid).len(), 1);
    assert!(store.has_uid(&owner.uid) && store.owners() == [owner.uid.clone()]);
    store.remove(&kind, &owner.key, owner.revision).await.unwrap();
    assert!(!store.has_uid(&owner.uid));
    store.remove(&kind, &child.key, child.revision).await.unwrap();
    assert!(store.dependents(&owner.uid).is_empty() && store.owners().is_empty());
}
