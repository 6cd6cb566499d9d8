use k8s_openapi::api::core::v1::PodStatus;
use kruntimes_api::run::IsolationLevel;

use super::*;

fn built(profile: Profile) -> Pod {
    pod(&profile.runtime("bash:1", Some("rw-cgroups")), "krt-preflight-1", 150).unwrap()
}

#[test]
fn profiles_are_the_kinds_of_pod_that_the_documentation_names() {
    let page = include_str!("../../../docs/isolation.md");
    for profile in [Profile::Restricted, Profile::Root, Profile::UserNamespaces, Profile::Privileged] {
        assert!(page.contains(&format!("| `{}` |", profile.name())), "{}", profile.name());
        let pod = built(profile);
        assert_eq!(pod.metadata.labels.unwrap().len(), 1, "no pool selects it");
        let spec = pod.spec.unwrap();
        let kept = (spec.restart_policy.as_deref(), spec.active_deadline_seconds, spec.service_account_name);
        assert_eq!(kept, (Some("Never"), Some(150), None));
        assert_eq!(spec.runtime_class_name.as_deref(), Some("rw-cgroups"));
        assert_eq!(spec.host_users, (profile == Profile::UserNamespaces).then_some(false));
        let security = spec.containers[0].security_context.clone().unwrap();
        assert_eq!(security.privileged, (profile == Profile::Privileged).then_some(true));
        assert_eq!(security.run_as_non_root == Some(true), profile == Profile::Restricted);
    }
}

fn seen(status: Value) -> Progress {
    let status: PodStatus = serde_json::from_value(status).unwrap();
    progress(&Pod { status: Some(status), ..Pod::default() })
}

fn container(state: Value) -> Value {
    json!({"phase": "Pending", "containerStatuses": [{
        "name": "runtime", "image": "nowhere/x:1", "imageID": "", "ready": false, "restartCount": 0, "state": state}]})
}

#[test]
fn what_does_not_pass_by_itself_is_an_error_that_says_what_to_do() {
    for (reason, word) in [
        ("ErrImagePull", "--image"),
        ("ImagePullBackOff", "--image"),
        ("CreateContainerConfigError", "profile"),
        ("RunContainerError", "--runtime-class"),
    ] {
        let state = json!({"waiting": {"reason": reason, "message": "because"}});
        let Progress::Stuck(error) = seen(container(state)) else { panic!("{reason}") };
        assert!(
            error.to_string().contains("nowhere/x:1") && error.to_string().contains("because"),
            "{error}"
        );
        assert!(error.hint().unwrap().contains(word), "{:?}", error.hint());
    }
    let Progress::Waiting(text) = seen(container(json!({"waiting": {"reason": "ContainerCreating"}}))) else {
        panic!("it is on its way")
    };
    assert_eq!(text, "ContainerCreating");
    let full = json!({"phase": "Pending", "conditions": [
        {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes"}]});
    let Progress::Waiting(text) = seen(full) else { panic!("a node may come") };
    assert!(text.contains("0/3 nodes"), "{text}");
    let ended = json!({"terminated": {"exitCode": 2, "reason": "Error"}});
    assert!(matches!(seen(container(ended)), Progress::Ended { code: Some(2), .. }));
    let evicted = json!({"phase": "Failed", "reason": "DeadlineExceeded", "message": "too long"});
    let Progress::Ended { code: None, how } = seen(evicted) else { panic!("it has ended") };
    assert_eq!(how, "DeadlineExceeded: too long");
}

#[test]
fn a_refusal_says_whom_to_ask() {
    let refuse = |code: u16, message: &str, profile| {
        let status = kube::core::Status::failure(message, "Forbidden").with_code(code);
        let error = Error::Refused { doing: "make the Pod".into(), status: Box::new(status) };
        refused(error, "team", profile).hint().unwrap()
    };
    let security = "pods \"x\" is forbidden: violates PodSecurity \"restricted:latest\": privileged";
    assert!(refuse(403, security, Some(Profile::Privileged)).contains("enforce=privileged"));
    assert!(refuse(403, security, Some(Profile::Root)).contains("enforce=baseline"));
    let right = "pods is forbidden: User \"eve\" cannot create resource \"pods\" in API group \"\"";
    assert!(refuse(403, right, None).contains("pods/log in namespace team"));
    assert!(refuse(403, "pods \"x\" is forbidden: exceeded quota: small", None).contains("ResourceQuota"));
    assert!(refuse(404, "namespaces \"team\" not found", None).contains("create namespace team"));
    let class = "pod rejected: RuntimeClass \"x\" not found";
    assert!(refuse(403, class, None).contains("kubectl get runtimeclasses"));
}

const LINE: &str = r#"{"server":{"name":"bash-server","version":"1"},"kernel":"6.1","user":65532,
"isolation":[{"axis":"limits","level":"Soft","mechanism":"policing","reason":"r","remedies":["s"]},
{"axis":"files","level":"Hard","mechanism":"landlock","reason":"","remedies":[]}],"accounting":[]}"#;

#[test]
fn what_was_found_is_the_last_line_that_can_be_read() {
    let line = LINE.replace('\n', "");
    let found = read(&format!("a word before\n{line}\n\n"), "i", Some(0), "").unwrap();
    assert_eq!((found.isolation.len(), found.isolation[0].held.level), (2, IsolationLevel::Soft));
    let error = read("error: unexpected argument '--probe' found\n", "old:1", Some(2), "Error").unwrap_err();
    assert!(error.to_string().contains("old:1") && error.to_string().contains("'--probe'"), "{error}");
    assert!(error.hint().unwrap().contains("--image"));
}
