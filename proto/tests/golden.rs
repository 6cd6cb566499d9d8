//! The public contract: names and numbers of the baseline's fields, which never change.

#![allow(clippy::expect_used, reason = "a test fails by panic")]

use std::collections::BTreeMap;

use prost::Message as _;
use prost_types::FileDescriptorSet;

/// `message field=number ...`, as the public kruntimes protocol has them.
const BASELINE: &str = "
ExecuteRequest id=1 args=2 env=3 timeout_seconds=4 working_dir=5 entrypoint=6 handler=7
ExecuteResponse id=1
StatusRequest id=1
StatusResponse id=1 state=2 exit_code=3 stdout=4 stderr=5 error_message=6
ListResponse entries=1
CancelRequest id=1
ForgetRequest id=1
HealthResponse healthy=1 message=2
RegisterFunctionRequest run_uid=1 registration_attempt=2 working_dir=3 handler=4 env=5 idle_timeout_seconds=6 registration_digest=7
RegisterFunctionResponse registration=1 state=2
FunctionStatusRequest registration=1
FunctionStatusResponse registration=1 state=2 in_flight=3 last_activity_unix_nano=4 fatal_error=5
InvokeFunctionRequest registration=1 invocation_id=2 input=3 content_type=4 timeout_millis=5
InvokeFunctionResponse registration=1 invocation_id=2 output=3 content_type=4 outputs=5
UnregisterFunctionRequest registration=1 cancel_in_flight=2 drain_timeout_millis=3
UnregisterFunctionResponse registration=1
FunctionRegistration run_uid=1 registration_id=2
";

fn descriptors() -> FileDescriptorSet {
    FileDescriptorSet::decode(kruntimes_proto::DESCRIPTORS).expect("the build wrote it")
}

/// Field number by name, of every message.
fn messages() -> BTreeMap<String, BTreeMap<String, i32>> {
    let files = descriptors().file;
    let messages = files.into_iter().flat_map(|file| file.message_type);
    let fields = |message: &prost_types::DescriptorProto| {
        message.field.iter().map(|field| (field.name().to_owned(), field.number())).collect()
    };
    messages.map(|message| (message.name().to_owned(), fields(&message))).collect()
}

#[test]
fn baseline_fields_keep_their_numbers() {
    let messages = messages();
    for line in BASELINE.lines().filter(|line| !line.is_empty()) {
        let mut words = line.split(' ');
        let name = words.next().expect("a message");
        let found = &messages[name];
        let mut public: BTreeMap<&str, i32> = found
            .iter()
            .filter(|(_, number)| **number < 100)
            .map(|(field, number)| (&**field, *number))
            .collect();
        for word in words {
            let (field, number) = word.split_once('=').expect("name=number");
            assert_eq!(public.remove(field), number.parse().ok(), "{name}.{field}");
        }
        assert!(public.is_empty(), "{name}: our own fields start at 100: {public:?}");
    }
}

#[test]
fn every_request_carries_the_fence_under_the_same_numbers() {
    let messages = messages();
    for name in ["ExecuteRequest", "StatusRequest", "CancelRequest", "ForgetRequest"] {
        assert_eq!((messages[name]["attempt"], messages[name]["assignment"]), (100, 101), "{name}");
    }
}

#[test]
fn services_and_states_keep_their_names() {
    let files = descriptors().file;
    let package = files.iter().all(|file| file.package() == "executor.v1");
    assert!(package, "one package");
    let services: BTreeMap<String, Vec<String>> = files
        .iter()
        .flat_map(|file| &file.service)
        .map(|s| (s.name().to_owned(), s.method.iter().map(|m| m.name().to_owned()).collect()))
        .collect();
    assert_eq!(services["Runtime"], ["Execute", "Status", "List", "Cancel", "Forget", "Health"]);
    let functions = ["RegisterFunction", "FunctionStatus", "InvokeFunction", "UnregisterFunction"];
    assert_eq!(services["FunctionRuntime"], functions);
    let enums = [
        ("ExecutionState", "EXECUTION_STATE", ["UNSPECIFIED", "PENDING", "RUNNING", "SUCCEEDED", "FAILED"]),
        (
            "FunctionRegistrationState",
            "FUNCTION_REGISTRATION_STATE",
            ["UNSPECIFIED", "REGISTERING", "READY", "DRAINING", "FAILED"],
        ),
    ];
    for (name, prefix, words) in enums {
        let states: Vec<(String, i32)> = files
            .iter()
            .flat_map(|file| &file.enum_type)
            .filter(|e| e.name() == name)
            .flat_map(|e| e.value.iter().map(|v| (v.name().to_owned(), v.number())))
            .collect();
        let expected: Vec<(String, i32)> =
            words.iter().zip(0..).map(|(word, number)| (format!("{prefix}_{word}"), number)).collect();
        assert_eq!(states, expected, "{name}");
    }
}
