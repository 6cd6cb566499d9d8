use super::*;
use crate::tests::api::FakeApi;
use kruntimes_api::{Phase, Reason};
use kruntimes_core::ids::{Fence, RunUid};
use serde_json::json;

fn fence(assignment: i64) -> Fence {
    Fence { run: RunUid::from("uid-r"), attempt: 1, assignment }
}

fn finished(assignment: i64) -> RunEvent {
    let finish = Finish {
        reason: Reason::Completed,
        message: "execution completed".into(),
        exit_code: Some(0),
        started_at: Some(Timestamp::UNIX_EPOCH),
        finished_at: Timestamp::now(),
        outputs: [("A".to_owned(), "1".to_owned())].into(),
        usage: Some(AttemptUsage::default()),
        devices: Vec::new(),
        isolation: Vec::new(),
        backend: None,
        log_tail: Some("tail".into()),
        resolved_sha: None,
    };
    RunEvent::Finished { fence: fence(assignment), finish: Box::new(finish) }
}

async fn write(api: &FakeApi, run: Arc<Run>, event: RunEvent) -> Written {
    write_status(api, run, event, &CancellationToken::new()).await
}

#[tokio::test(start_paused = true)]
async fn transient_errors_are_waited_out_and_the_result_is_not_lost() {
    let api = FakeApi::default();
    let run = api.bound("r", json!({"runtime": "bash"}));
    api.fail((0..30).map(|_| ApiError::Transient("503".into())));
    assert!(matches!(write(&api, run, finished(1)).await, Written::Applied(_)));
    let status = api.status("r");
    assert_eq!(
        (status.phase, status.reason, &*status.outputs["A"]),
        (Some(Phase::Succeeded), Some(Reason::Completed), "1")
    );
    assert_eq!(api.patches().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_conflict_means_read_again_and_decide_again() {
    let api = FakeApi::default();
    let run = api.bound("r", json!({"runtime": "bash", "retryPolicy": {"maxAttempts": 3}}));
    // Cancelled meanwhile: what would have been a retry is the end now.
    api.change("r", |run| run["spec"]["cancelRequested"] = true.into());
    let RunEvent::Finished { fence, mut finish } = finished(1) else { panic!() };
    finish.reason = Reason::NonZeroExit;
    assert!(matches!(write(&api, run, RunEvent::Finished { fence, finish }).await, Written::Applied(_)));
    assert_eq!(api.status("r").phase, Some(Phase::Failed));
}

#[tokio::test(start_paused = true)]
async fn a_run_that_moved_on_is_left_alone() {
    let api = FakeApi::default();
    let run = api.bound("r", json!({"runtime": "bash"}));
    api.change("r", |run| run["status"]["assignment"] = 2.into());
    assert!(matches!(write(&api, run, finished(1)).await, Written::Refused(Refusal::Stale { .. })));
    let run = api.change("r", |run| run["status"]["phase"] = "Cancelled".into());
    assert!(matches!(write(&api, run, finished(2)).await, Written::Refused(Refusal::Final { .. })));
    assert!(api.patches().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_deleted_run_is_gone_and_so_is_its_namesake() {
    let api = FakeApi::default();
    let run = api.bound("r", json!({"runtime": "bash"}));
    api.delete("r");
    assert!(matches!(write(&api, Arc::clone(&run), finished(1)).await, Written::Gone));
    api.bound("r", json!({"runtime": "bash"}));
    api.change("r", |run| run["metadata"]["uid"] = "another".into());
    assert!(matches!(write(&api, run, finished(1)).await, Written::Gone));
}

#[tokio::test(start_paused = true)]
async fn content_that_the_api_refuses_is_dropped_and_the_run_ends_all_the_same() {
    let api = FakeApi::default();
    let run = api.bound("r", json!({"runtime": "bash"}));
    // Every second call is the read between two tries.
    let refused = || ApiError::Refused("status.outputs: too long".into());
    api.fail([refused()]);
    assert!(matches!(write(&api, Arc::clone(&run), finished(1)).await, Written::Applied(_)));
    assert_eq!(api.status("r").outputs.len(), 1, "one refusal may be a stale read");

    struct Picky(FakeApi);
    #[async_trait::async_trait]
    impl RunWriter for Picky {
        async fn get(&self, name: &str) -> Result<Arc<Run>, ApiError> {
            self.0.get(name).await
        }
        async fn patch_status(&self, name: &str, patch: &serde_json::Value) -> Result<Arc<Run>, ApiError> {
            match patch["status"].get("outputs") {
                Some(_) => Err(ApiError::Refused("status.outputs: too long".into())),
                None => self.0.patch_status(name, patch).await,
            }
        }
    }
    let api = FakeApi::default();
    let run = api.bound("r", json!({"runtime": "bash"}));
    let outcome = write_status(&Picky(api.clone()), run, finished(1), &CancellationToken::new()).await;
    assert!(matches!(outcome, Written::Applied(_)));
    let status = api.status("r");
    assert_eq!((status.phase, status.outputs.len()), (Some(Phase::Succeeded), 0));
    assert!(status.message.unwrap().contains("status.outputs: too long"));
    assert!(status.usage.unwrap().incomplete, "what it used is not known any more");
    let suspended = RunEvent::Suspended { fence: fence(1), usage: Some(AttemptUsage::default()) };
    let RunEvent::Suspended { usage, .. } = reduced(suspended, "why") else { panic!("another event") };
    assert_eq!(usage, Some(AttemptUsage::unknown()));
}

#[tokio::test(start_paused = true)]
async fn a_hurried_write_does_not_wait() {
    let api = FakeApi::default();
    let run = api.bound("r", json!({"runtime": "bash"}));
    let hurry = CancellationToken::new();
    hurry.cancel();
    api.fail([ApiError::Transient("503".into())]);
    let event = RunEvent::Started { fence: fence(1), at: Timestamp::now(), devices: Vec::new() };
    assert!(matches!(write_status(&api, Arc::clone(&run), event.clone(), &hurry).await, Written::Abandoned));
    // But it is not given up when nothing is in its way.
    assert!(matches!(write_status(&api, run, event, &hurry).await, Written::Applied(_)));
}
