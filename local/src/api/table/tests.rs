use super::*;

#[test]
fn durations_read_as_in_kubectl() {
    for (seconds, wanted) in [
        (-5, "<invalid>"),
        (0, "0s"),
        (119, "119s"),
        (120, "2m"),
        (125, "2m5s"),
        (600, "10m"),
        (3 * 3600 + 60, "3h1m"),
        (9 * 3600, "9h"),
        (3 * 86400 + 7200, "3d2h"),
        (20 * 86400, "20d"),
        (3 * 365 * 86400, "3y"),
    ] {
        assert_eq!(human_duration(seconds), wanted, "{seconds}");
    }
}

#[test]
fn a_pod_shows_why_it_waits() {
    let kinds = crate::kinds::Kinds::new(&[]).unwrap();
    let pod = json!({
        "metadata": {"name": "p", "creationTimestamp": "2024-01-01T00:00:00Z"},
        "spec": {"containers": [{"name": "a"}, {"name": "b"}]},
        "status": {"phase": "Running", "containerStatuses": [
            {"name": "a", "ready": true, "restartCount": 2, "state": {"running": {}}},
            {"name": "b", "ready": false, "restartCount": 1, "state": {"waiting": {"reason": "CrashLoopBackOff"}}},
        ]},
    });
    let now = "2024-01-01T00:01:00Z".parse().unwrap();
    let row = row(kinds.core("pods"), &pod, Include::Nothing, now);
    let cells: Vec<_> = row["cells"].as_array().unwrap().iter().take(5).map(|c| c.to_string()).collect();
    assert_eq!(cells, ["\"p\"", "\"1/2\"", "\"CrashLoopBackOff\"", "\"3\"", "\"60s\""]);
}
