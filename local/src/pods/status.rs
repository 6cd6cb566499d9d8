//! The status of a Pod from the states of its containers.

use std::net::Ipv4Addr;

use serde_json::{Value, json};

use super::slot::{Slot, State};
use crate::object::{self, list, map_at};

/// `status.phase`: `restarts` says whether an ended container is started again.
pub fn phase(slots: &[Slot], restarts: impl Fn(&Slot, i32) -> bool) -> &'static str {
    let mut main = slots.iter().filter(|s| !s.init).peekable();
    let failed_init = slots.iter().filter(|s| s.init).any(|s| match &s.state {
        State::Ended(end) => end.code != 0 && !restarts(s, end.code),
        _ => false,
    });
    if failed_init {
        return "Failed";
    }
    if main.peek().is_some()
        && main.clone().all(|s| matches!(&s.state, State::Ended(end) if !restarts(s, end.code)))
    {
        let failed = main.any(|s| matches!(&s.state, State::Ended(end) if end.code != 0));
        return if failed { "Failed" } else { "Succeeded" };
    }
    // A container that waits for its first start keeps the Pod Pending, one that waits for another does not.
    let begun = |s: &Slot| s.ever || matches!(s.state, State::Running(_) | State::Ended(_));
    if slots.iter().filter(|s| !s.init).all(begun) { "Running" } else { "Pending" }
}

/// Writes the kubelet's part of the status into `pod`; what others wrote there stays.
pub fn write(pod: &mut Value, slots: &[Slot], phase: &str, ip: Ipv4Addr, started: &str) {
    let statuses = |init: bool| -> Value {
        slots.iter().filter(|s| s.init == init).map(Slot::status).collect::<Vec<_>>().into()
    };
    let init_count = slots.iter().filter(|s| s.init).count();
    let status = map_at(pod, "status");
    status.insert("phase".into(), json!(phase));
    status.insert("podIP".into(), json!(ip.to_string()));
    status.insert("podIPs".into(), json!([{"ip": ip.to_string()}]));
    status.insert("hostIP".into(), json!("127.0.0.1"));
    status.insert("qosClass".into(), json!("BestEffort"));
    status.entry("startTime").or_insert(json!(started));
    if init_count > 0 {
        status.insert("initContainerStatuses".into(), statuses(true));
    }
    status.insert("containerStatuses".into(), statuses(false));

    let over = matches!(phase, "Succeeded" | "Failed");
    let initialised = slots.iter().filter(|s| s.init).all(Slot::ready);
    let unready: Vec<_> =
        slots.iter().filter(|s| !s.init && !s.ready()).map(|s| s.name().to_owned()).collect();
    let all_ready = unready.is_empty() && !over;
    let (reason, message) = match (all_ready, over) {
        (true, _) => ("", String::new()),
        (false, true) => ("PodCompleted", String::new()),
        (false, false) => {
            ("ContainersNotReady", format!("containers with unready status: [{}]", unready.join(" ")))
        }
    };
    object::set_condition(pod, "PodScheduled", true, "", "");
    object::set_condition(
        pod,
        "Initialized",
        initialised,
        if initialised { "" } else { "ContainersNotInitialized" },
        "",
    );
    object::set_condition(pod, "ContainersReady", all_ready, reason, &message);
    let closed = closed_gates(pod);
    if all_ready && !closed.is_empty() {
        let message =
            format!("corresponding conditions of readiness gates are not True: {}", closed.join(", "));
        object::set_condition(pod, "Ready", false, "ReadinessGatesNotReady", &message);
    } else {
        object::set_condition(pod, "Ready", all_ready, reason, &message);
    }
}

/// The readiness gates whose condition is not True.
fn closed_gates(pod: &Value) -> Vec<String> {
    let conditions = list(pod, "/status/conditions");
    list(pod, "/spec/readinessGates")
        .iter()
        .map(|gate| object::text(gate, "/conditionType"))
        .filter(|gate| !conditions.iter().any(|c| c["type"] == *gate && c["status"] == "True"))
        .map(str::to_owned)
        .collect()
}
