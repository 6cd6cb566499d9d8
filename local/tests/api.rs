//! The API through the stock Rust client: what an API server promises.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

mod common;

use common::*;
use serde_json::{Value, json};

fn widget(name: &str, color: &str) -> Value {
    json!({"apiVersion": "example.test/v1", "kind": "Widget", "metadata": {"name": name}, "spec": {"color": color}})
}

fn one(name: &str) -> String {
    format!("{WIDGETS}/{name}")
}

fn number(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap()
}

#[tokio::test]
async fn objects_are_created_defaulted_refused() {
    let cluster = cluster(false).await;
    let c = cluster.client.clone();
    let (code, made) = c.post(WIDGETS, &widget("a", "red")).await;
    assert_eq!(
        (code, &made["spec"]["size"], &made["metadata"]["generation"]),
        (201, &json!("small"), &json!(1))
    );
    let (code, status) = c.post(WIDGETS, &widget("a", "red")).await;
    assert_eq!(
        (code, &status["reason"], &status["message"]),
        (409, &json!("AlreadyExists"), &json!("widgets.example.test \"a\" already exists"))
    );
    let (code, status) = c.post(WIDGETS, &widget("b", "RED")).await;
    assert_eq!((code, &status["reason"]), (422, &json!("Invalid")));
    assert_eq!(
        status["message"],
        "Widget.example.test \"b\" is invalid: spec.color: Invalid value: \"RED\": spec.color in body should match '^[a-z]+$'"
    );
    assert_eq!(status["details"]["causes"][0]["field"], "spec.color");
    let (code, status) = c.post(WIDGETS, &widget("No_Name", "red")).await;
    assert_eq!((code, status["details"]["causes"][0]["field"].as_str()), (422, Some("metadata.name")));
    let mut generated = widget("x", "red");
    generated["metadata"] = json!({"generateName": "gen-"});
    let (code, made) = c.post(WIDGETS, &generated).await;
    assert!(code == 201 && made["metadata"]["name"].as_str().unwrap().len() == 9, "{made}");
    let (code, status) = c.post("/apis/example.test/v1/namespaces/none/widgets", &widget("a", "red")).await;
    assert_eq!((code, status["message"].as_str()), (404, Some("namespaces \"none\" not found")));
    let mut unknown = widget("u", "red");
    unknown["spec"]["bogus"] = json!(1);
    let (code, status) = c.post(&format!("{WIDGETS}?fieldValidation=Strict"), &unknown).await;
    assert_eq!(code, 400);
    assert!(status["message"].as_str().unwrap().contains("unknown field \"spec.bogus\""), "{status}");
    let (code, made) = c.post(&format!("{WIDGETS}?dryRun=All"), &unknown).await;
    assert_eq!((code, made["spec"].get("bogus")), (201, None));
    assert_eq!(c.get(&one("u")).await.0, 404);
    assert_eq!(c.send("POST", WIDGETS, "application/json", b"{".to_vec()).await.0, 400);
    assert_eq!(c.post("/apis/example.test/v1/nothing", &json!({})).await.0, 404);
}

#[tokio::test]
async fn writes_are_fenced_by_revision_and_uid() {
    let cluster = cluster(false).await;
    let c = cluster.client.clone();
    let (_, first) = c.post(WIDGETS, &widget("a", "red")).await;
    let mut stale = first.clone();
    stale["spec"]["replicas"] = json!(2);
    let (code, second) = c.put(&one("a"), &stale).await;
    assert_eq!((code, &second["metadata"]["generation"]), (200, &json!(2)));
    assert!(number(&second) > number(&first));
    let (code, status) = c.put(&one("a"), &stale).await;
    assert_eq!((code, &status["reason"]), (409, &json!("Conflict")));
    let with = |meta: Value| json!({"metadata": meta, "spec": {"replicas": 7}});
    let stale = with(json!({"resourceVersion": first["metadata"]["resourceVersion"]}));
    assert_eq!(c.patch(&one("a"), MERGE, &stale).await.0, 409);
    assert_eq!(c.patch(&one("a"), MERGE, &with(json!({"uid": "other"}))).await.0, 409);
    let good = with(
        json!({"uid": first["metadata"]["uid"], "resourceVersion": second["metadata"]["resourceVersion"]}),
    );
    assert_eq!(c.patch(&one("a"), MERGE, &good).await.0, 200);
    let (code, status) = c.put(&one("a"), &widget("a", "red")).await;
    assert_eq!(
        (code, status["details"]["causes"][0]["field"].as_str()),
        (422, Some("metadata.resourceVersion"))
    );
    let wrong = json!({"preconditions": {"uid": "other"}}).to_string();
    assert_eq!(c.send("DELETE", &one("a"), "application/json", wrong.into()).await.0, 409);
    assert_eq!(c.delete(&one("a")).await.0, 200);
    assert_eq!(c.get(&one("a")).await.0, 404);
}

#[tokio::test]
async fn an_update_that_changes_nothing_is_no_write() {
    let cluster = cluster(false).await;
    let c = cluster.client.clone();
    let (_, first) = c.post(WIDGETS, &widget("a", "red")).await;
    let (code, same) = c.patch(&one("a"), MERGE, &json!({"spec": {"color": "red"}})).await;
    assert_eq!((code, number(&same)), (200, number(&first)));
}

#[tokio::test]
async fn status_and_spec_are_written_apart() {
    let cluster = cluster(false).await;
    let c = cluster.client.clone();
    let mut object = widget("a", "red");
    object["status"] = json!({"phase": "Working"});
    let (_, made) = c.post(WIDGETS, &object).await;
    assert_eq!(made.get("status"), None);
    let path = format!("{}/status", one("a"));
    let change = json!({"spec": {"replicas": 9}, "status": {"phase": "Done"}});
    let (code, done) = c.patch(&path, MERGE, &change).await;
    assert_eq!((code, &done["spec"]["replicas"], &done["status"]["phase"]), (200, &json!(1), &json!("Done")));
    assert_eq!(done["metadata"]["generation"], 1);
    let (_, main) =
        c.patch(&one("a"), MERGE, &json!({"spec": {"replicas": 2}, "status": {"phase": "Working"}})).await;
    assert_eq!((&main["spec"]["replicas"], &main["status"]["phase"]), (&json!(2), &json!("Done")));
    let (code, status) = c.patch(&path, MERGE, &json!({"status": {"phase": "Working"}})).await;
    assert_eq!(code, 422);
    assert!(status["message"].as_str().unwrap().contains("status.phase is final"), "{status}");
    let (code, status) = c.patch(&one("a"), MERGE, &json!({"spec": {"color": "blue"}})).await;
    assert_eq!(code, 422);
    assert!(status["message"].as_str().unwrap().contains("color is immutable"), "{status}");
}

#[tokio::test]
async fn scale_reads_and_writes_replicas() {
    let cluster = cluster(false).await;
    let c = cluster.client.clone();
    c.post(WIDGETS, &widget("a", "red")).await;
    let path = format!("{}/scale", one("a"));
    let (code, mut scale) = c.get(&path).await;
    assert_eq!((code, &scale["kind"], &scale["spec"]["replicas"]), (200, &json!("Scale"), &json!(1)));
    scale["spec"]["replicas"] = json!(4);
    assert_eq!(c.put(&path, &scale).await.1["spec"]["replicas"], 4);
    assert_eq!(c.put(&path, &scale).await.0, 409, "the revision is old now");
    assert_eq!(c.patch(&path, MERGE, &json!({"spec": {"replicas": 6}})).await.1["spec"]["replicas"], 6);
    assert_eq!(c.patch(&path, MERGE, &json!({"spec": {"replicas": -1}})).await.0, 422);
    assert_eq!(c.get(&one("a")).await.1["spec"]["replicas"], 6);
}

#[tokio::test]
async fn apply_creates_then_merges() {
    let cluster = cluster(false).await;
    let c = cluster.client.clone();
    let path = format!("{}?fieldManager=me&force=true", one("a"));
    assert_eq!(c.patch(&one("a"), APPLY, &widget("a", "red")).await.0, 400, "a manager is needed");
    assert_eq!(c.patch(&path, APPLY, &widget("a", "red")).await.0, 201);
    let (code, second) = c.patch(&path, APPLY, &widget("a", "red")).await;
    assert_eq!(code, 200);
    let again = c.patch(&path, APPLY, &widget("a", "red")).await.1;
    assert_eq!(number(&second), number(&again));
    let (code, gone) = c.patch(&one("none"), MERGE, &json!({})).await;
    assert_eq!((code, &gone["reason"]), (404, &json!("NotFound")));
}

#[tokio::test]
async fn lists_are_selected_and_come_in_pieces() {
    let cluster = cluster(false).await;
    let c = cluster.client.clone();
    for (index, color) in ["red", "blue", "red", "green"].into_iter().enumerate() {
        let mut object = widget(&format!("w{index}"), color);
        object["metadata"]["labels"] = json!({"n": index.to_string()});
        c.post(WIDGETS, &object).await;
    }
    let names = |list: &Value| -> Vec<String> {
        list["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|i| i["metadata"]["name"].as_str().unwrap().to_owned())
            .collect()
    };
    let (_, list) = c.get(&format!("{WIDGETS}?fieldSelector=spec.color%3Dred")).await;
    assert_eq!((names(&list), &list["kind"]), (vec!["w0".into(), "w2".into()], &json!("WidgetList")));
    let (_, list) = c.get(&format!("{WIDGETS}?labelSelector=n%20in%20(1,3),n!%3D3")).await;
    assert_eq!(names(&list), ["w1"]);
    assert_eq!(c.get(&format!("{WIDGETS}?fieldSelector=spec.size%3Dx")).await.0, 400);
    let (_, first) = c.get(&format!("{WIDGETS}?limit=3")).await;
    assert_eq!((names(&first).len(), &first["metadata"]["remainingItemCount"]), (3, &json!(1)));
    let token = first["metadata"]["continue"].as_str().unwrap();
    let (_, rest) = c.get(&format!("{WIDGETS}?limit=3&continue={token}")).await;
    assert_eq!(names(&rest), ["w3"]);
    assert_eq!(rest["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    let (code, _) =
        c.send("DELETE", &format!("{WIDGETS}?labelSelector=n%3D0"), "application/json", b"{}".to_vec()).await;
    assert_eq!(code, 200);
    assert_eq!(names(&c.get("/apis/example.test/v1/widgets").await.1), ["w1", "w2", "w3"]);
}

#[tokio::test]
async fn watches_follow_their_selection() {
    let cluster = cluster(false).await;
    let c = cluster.client.clone();
    let mut object = widget("a", "red");
    object["metadata"]["labels"] = json!({"keep": "yes"});
    let (_, made) = c.post(WIDGETS, &object).await;
    let path = format!("{WIDGETS}?watch=true&labelSelector=keep%3Dyes");
    let mut present = c.lines(&path).await;
    let mut later = c.lines(&format!("{path}&resourceVersion={}", number(&made))).await;
    let mut initial = c
        .lines(&format!(
            "{path}&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan"
        ))
        .await;
    c.patch(&one("a"), MERGE, &json!({"spec": {"replicas": 2}})).await;
    c.patch(&one("a"), MERGE, &json!({"metadata": {"labels": {"keep": "no"}}})).await;
    c.patch(&one("a"), MERGE, &json!({"metadata": {"labels": {"keep": "yes"}}})).await;
    c.post(WIDGETS, &widget("other", "red")).await;
    c.delete(&one("a")).await;
    let words = |list: Vec<(String, String)>| list.into_iter().map(|(word, _)| word).collect::<Vec<_>>();
    let changes = ["MODIFIED", "DELETED", "ADDED", "DELETED"];
    assert_eq!(words(events(&mut later, 4).await), changes);
    assert_eq!(words(events(&mut present, 5).await), [&["ADDED"][..], &changes].concat());
    assert_eq!(words(events(&mut initial, 6).await), [&["ADDED", "BOOKMARK"][..], &changes].concat());
}

#[tokio::test]
async fn watches_end_with_a_bookmark_at_their_timeout() {
    let cluster = cluster(false).await;
    let c = cluster.client.clone();
    let mut stream =
        c.lines(&format!("{WIDGETS}?watch=true&timeoutSeconds=1&allowWatchBookmarks=true")).await;
    let bookmark: Value =
        serde_json::from_str(&futures::StreamExt::next(&mut stream).await.unwrap()).unwrap();
    assert_eq!((&bookmark["type"], &bookmark["object"]["kind"]), (&json!("BOOKMARK"), &json!("Widget")));
    assert!(number(&bookmark["object"]) > 0);
    assert_eq!(futures::StreamExt::next(&mut stream).await, None);
}

#[tokio::test]
async fn faults_come_when_asked_for() {
    let cluster = cluster(false).await;
    let c = &cluster.client;
    let (_, made) = c.post(WIDGETS, &widget("a", "red")).await;
    let set = json!({"conflicts": 1, "errors": 0, "expired": 1, "resource": "widgets"});
    assert_eq!(c.put("/debug/faults", &set).await.0, 200);
    assert_eq!(c.patch(&one("a"), MERGE, &json!({"spec": {"replicas": 2}})).await.0, 409);
    assert_eq!(c.patch(&one("a"), MERGE, &json!({"spec": {"replicas": 2}})).await.0, 200);
    let continued = format!("{WIDGETS}?watch=true&resourceVersion={}", number(&made));
    let too_old = async || {
        let mut stream = c.lines(&continued).await;
        let event: Value =
            serde_json::from_str(&futures::StreamExt::next(&mut stream).await.unwrap()).unwrap();
        assert_eq!((&event["type"], &event["object"]["code"]), (&json!("ERROR"), &json!(410)));
        assert_eq!(event["object"]["reason"], "Expired");
        assert_eq!(futures::StreamExt::next(&mut stream).await, None);
    };
    too_old().await;
    let mut open = c.lines(&continued).await;
    assert_eq!(events(&mut open, 1).await[0].0, "MODIFIED");
    cluster.platform.faults().close_watches();
    assert_eq!(futures::StreamExt::next(&mut open).await, None);
    c.post("/debug/faults/forget-history", &json!({})).await;
    too_old().await;
    let counts = c.get("/debug/requests").await.1;
    let total: u64 = counts.as_object().unwrap().values().filter_map(|c| c["patch widgets"].as_u64()).sum();
    assert_eq!(total, 2, "{counts}");
}

#[tokio::test]
async fn finalizers_hold_and_owners_take_along() {
    let cluster = cluster(false).await;
    let c = cluster.client.clone();
    let mut held = widget("held", "red");
    held["metadata"]["finalizers"] = json!(["example.test/hold"]);
    let (_, held) = c.post(WIDGETS, &held).await;
    let reference = json!([{"apiVersion": "example.test/v1", "kind": "Widget", "name": "held", "uid": held["metadata"]["uid"]}]);
    let child = |name: &str| json!({"metadata": {"name": name, "ownerReferences": reference}});
    c.post(MAPS, &child("child")).await;
    let (code, marked) = c.delete(&one("held")).await;
    assert!(code == 200 && marked["metadata"]["deletionTimestamp"].is_string(), "{marked}");
    assert_eq!(c.get(&format!("{MAPS}/child")).await.0, 200, "the owner is still there");
    assert_eq!(c.patch(&one("held"), MERGE, &json!({"metadata": {"finalizers": null}})).await.0, 200);
    assert_eq!(c.get(&one("held")).await.0, 404);
    let path = format!("{MAPS}/child");
    until("the child goes with its owner", || c.get(&path), |(code, _)| *code == 404).await;
    c.post(MAPS, &child("late")).await;
    let path = format!("{MAPS}/late");
    until("a child of nobody goes too", || c.get(&path), |(code, _)| *code == 404).await;

    let (_, parent) = c.post(WIDGETS, &widget("parent", "red")).await;
    let mut orphan = child("orphan");
    orphan["metadata"]["ownerReferences"][0]["uid"] = parent["metadata"]["uid"].clone();
    c.post(MAPS, &orphan).await;
    let orphaning = json!({"propagationPolicy": "Orphan"}).to_string();
    assert_eq!(c.send("DELETE", &one("parent"), "application/json", orphaning.into()).await.0, 200);
    let (code, orphan) = c.get(&format!("{MAPS}/orphan")).await;
    assert_eq!((code, orphan["metadata"]["ownerReferences"].as_array().map(Vec::len)), (200, Some(0)));
}

#[tokio::test]
async fn namespaces_take_their_contents_along() {
    let cluster = cluster(false).await;
    let c = cluster.client.clone();
    assert_eq!(c.post("/api/v1/namespaces", &json!({"metadata": {"name": "team"}})).await.0, 201);
    let inside = "/apis/example.test/v1/namespaces/team/widgets";
    assert_eq!(c.post(inside, &widget("a", "red")).await.0, 201);
    assert_eq!(c.delete("/api/v1/namespaces/team").await.1["status"]["phase"], "Terminating");
    until("the namespace goes", || c.get("/api/v1/namespaces/team"), |(code, _)| *code == 404).await;
    assert_eq!(c.get(inside).await.1["items"], json!([]));
}

#[tokio::test]
async fn events_have_two_names() {
    let cluster = cluster(false).await;
    let c = cluster.client.clone();
    // Of this hour: older ones are swept away.
    let second = jiff::Timestamp::from_second(jiff::Timestamp::now().as_second()).unwrap().to_string();
    let new = json!({
        "metadata": {"name": "e"}, "regarding": {"kind": "Run", "name": "r", "namespace": "default"}, "note": "hello",
        "reason": "Testing", "type": "Normal", "action": "Test", "eventTime": second.replace('Z', ".000001Z"),
        "reportingController": "me", "reportingInstance": "me",
    });
    let (code, made) = c.post("/apis/events.k8s.io/v1/namespaces/default/events", &new).await;
    assert_eq!(
        (code, &made["note"], &made["apiVersion"]),
        (201, &json!("hello"), &json!("events.k8s.io/v1"))
    );
    let path = "/api/v1/namespaces/default/events?fieldSelector=involvedObject.name%3Dr";
    let (_, list) = c.get(path).await;
    let old = &list["items"][0];
    assert_eq!(
        (&old["message"], &old["involvedObject"]["name"], &old["lastTimestamp"]),
        (&json!("hello"), &json!("r"), &json!(second))
    );
}

#[tokio::test]
async fn nobody_orders_faults_from_a_platform_that_was_not_asked_to_play_them() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(folder.path());
    (config.run_pods, config.debug_faults) = (false, false);
    let platform = kruntimes_local::Platform::start(config).await.unwrap();
    let client = Client::new(&platform.kubeconfig_path()).await;
    assert_eq!(client.put("/debug/faults", &json!({"errors": 1})).await.0, 404);
    assert_eq!(client.post("/debug/faults/forget-history", &json!({})).await.0, 404);
    assert_eq!(client.get("/debug/requests").await.0, 200, "counting hurts nobody");
}

#[tokio::test]
async fn only_the_token_opens_and_only_this_machine_is_served() {
    let cluster = cluster(false).await;
    let url = format!("https://{}", cluster.platform.address());
    let mut unknown = kube::Config::new(url.parse().unwrap());
    unknown.accept_invalid_certs = true;
    let stranger = Client(kube::Client::try_from(unknown).unwrap());
    let (code, status) = stranger.get(WIDGETS).await;
    assert_eq!((code, &status["reason"]), (401, &json!("Unauthorized")));
    assert_eq!(stranger.get("/debug/faults").await.0, 401);
    assert_eq!(stranger.get("/readyz").await.0, 200);
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(folder.path());
    config.address = "0.0.0.0:0".parse().unwrap();
    let refused = kruntimes_local::Platform::start(config).await.err().unwrap().to_string();
    assert!(refused.contains("no loopback address"), "{refused}");
}

#[tokio::test]
async fn one_platform_per_folder() {
    let cluster = cluster(false).await;
    let status = kruntimes_local::Status::read(cluster.folder.path()).unwrap();
    assert_eq!(status.pid, std::process::id());
    let second = kruntimes_local::Platform::start(config(cluster.folder.path())).await.err().unwrap();
    assert!(second.to_string().contains("running already"), "{second}");
    let folder = cluster.folder.path().to_owned();
    cluster.platform.shutdown(DEADLINE).await;
    assert_eq!(kruntimes_local::Status::read(&folder), None);
}

#[tokio::test]
async fn tables_are_what_kubectl_prints() {
    let cluster = cluster(false).await;
    let c = cluster.client.clone();
    c.post(WIDGETS, &widget("a", "red")).await;
    let request = http::Request::get(WIDGETS)
        .header("accept", "application/json;as=Table;v=v1;g=meta.k8s.io,application/json");
    let table: Value = c.0.request(request.body(Vec::new()).unwrap()).await.unwrap();
    let heads: Vec<_> =
        table["columnDefinitions"].as_array().unwrap().iter().map(|h| h["name"].as_str().unwrap()).collect();
    assert_eq!(heads, ["Name", "Color", "Replicas", "Phase", "Size", "Age"]);
    assert_eq!(
        table["rows"][0]["cells"].as_array().unwrap()[..5],
        [json!("a"), json!("red"), json!(1), Value::Null, json!("small")]
    );
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
}
