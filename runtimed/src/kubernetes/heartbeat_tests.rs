use kruntimes_api::run::IsolationLevel;

use super::*;
use crate::server::Instance;
use kruntimes_core::ids::PodUid;

fn axis(axis: &str, level: v1::IsolationLevel, reason: &str) -> v1::IsolationAxis {
    v1::IsolationAxis {
        axis: axis.into(),
        level: level.into(),
        reason: reason.into(),
        mechanism: String::new(),
    }
}

struct Nobody(Instance);

#[async_trait::async_trait]
impl crate::server::RuntimeClient for Nobody {
    fn instance(&self) -> &Instance {
        &self.0
    }
    async fn execute(&self, _: v1::ExecuteRequest) -> Result<(), crate::server::CallError> {
        unreachable!()
    }
    async fn cancel(
        &self,
        _: &kruntimes_core::ids::Fence,
        _: v1::StopCause,
        _: Duration,
    ) -> Result<(), crate::server::CallError> {
        unreachable!()
    }
    async fn forget(&self, _: &kruntimes_core::ids::Fence) -> Result<(), crate::server::CallError> {
        unreachable!()
    }
    async fn status(
        &self,
        _: &kruntimes_core::ids::Fence,
    ) -> Result<crate::server::Execution, crate::server::CallError> {
        unreachable!()
    }
    async fn health(&self) -> Result<Result<(), String>, crate::server::CallError> {
        unreachable!()
    }
    async fn logs(
        &self,
        _: &kruntimes_core::ids::Fence,
        _: crate::server::Offsets,
    ) -> Result<crate::server::LogStream, crate::server::CallError> {
        unreachable!()
    }
}

fn healthy(axes: Vec<v1::IsolationAxis>) -> ServerView {
    let describe = v1::DescribeResponse { isolation: Some(v1::Isolation { axes }), ..Default::default() };
    ServerView {
        client: Some(std::sync::Arc::new(Nobody(Instance::Baseline))),
        trouble: None,
        describe: Some(std::sync::Arc::new(describe)),
    }
}

const WELL: Own = Own { synced: true, draining: false };

#[test]
fn every_trouble_has_its_word_and_a_sentence() {
    let said = |own, view: &ServerView| {
        let readiness = readiness(own, view, None);
        assert_eq!(readiness.ready, readiness.message.is_empty(), "{readiness:?}");
        readiness.reason
    };
    assert_eq!(said(WELL, &healthy(Vec::new())), "Heartbeat");
    assert_eq!(said(Own { draining: true, ..WELL }, &healthy(Vec::new())), "Draining");
    assert_eq!(said(Own { synced: false, ..WELL }, &healthy(Vec::new())), "ApiUnreachable");
    assert_eq!(said(WELL, &ServerView::default()), "ServerUnreachable");
    let ill = ServerView { trouble: Some(Trouble::Unhealthy("no fork".into())), ..healthy(Vec::new()) };
    assert_eq!(said(WELL, &ill), "ServerUnhealthy");
    let gone = ServerView { trouble: Some(Trouble::Unreachable("refused".into())), ..ServerView::default() };
    assert_eq!(said(WELL, &gone), "ServerUnreachable");
}

#[test]
fn isolation_below_what_is_required_is_named_with_the_servers_reason() {
    let required = RequiredIsolation {
        limits: Some(IsolationLevel::Hard),
        network: Some(IsolationLevel::None),
        ..RequiredIsolation::default()
    };
    let soft = healthy(vec![axis("limits", v1::IsolationLevel::Soft, "no delegated cgroup")]);
    let message = readiness(WELL, &soft, Some(&required)).message;
    assert_eq!(message, "isolation.require.limits is Hard but this Pod gives Soft: no delegated cgroup");
    let hard = healthy(vec![axis("limits", v1::IsolationLevel::Hard, "")]);
    assert!(readiness(WELL, &hard, Some(&required)).ready);
    let baseline = ServerView { describe: None, ..hard };
    assert_eq!(readiness(WELL, &baseline, Some(&required)).reason, "IsolationMissing");
}

#[test]
fn the_patch_touches_one_condition_of_one_pod() {
    let pod = PodRef { name: "p".into(), uid: PodUid::from("u") };
    let wanted = Readiness { ready: true, reason: HEARTBEAT_REASON, message: String::new() };
    let time = Timestamp::from_second(1_700_000_000).unwrap();
    let patch = condition_patch(&pod, &wanted, time, time);
    assert_eq!(patch["metadata"], json!({"uid": "u"}));
    let expected = json!({
        "type": "kruntimes.io/RuntimedReady", "status": "True", "reason": "Heartbeat", "message": "",
        "lastProbeTime": "2023-11-14T22:13:20Z", "lastTransitionTime": "2023-11-14T22:13:20Z",
    });
    assert_eq!(patch["status"], json!({"conditions": [expected]}));
}
