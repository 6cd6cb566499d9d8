//! `krt runtime describe NAME`: the pool, its Pods, and why some of them take no Runs.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, Pod};
use kruntimes_api::{Runtime, RuntimeInstance, names};
use kube::ResourceExt;

use super::run_describe::{conditions, events, isolation_table, section};
use super::table::{Cell, Table};
use super::{age, or_dash, printable, quantity, runtime};
use crate::term::{Palette, style};

/// What belongs to a Runtime.
pub struct Pool<'a> {
    /// Its Pods.
    pub pods: &'a [Pod],
    /// What these really offer.
    pub instances: &'a [RuntimeInstance],
    /// Names of the Runs that hold devices, by uid.
    pub runs: &'a BTreeMap<String, String>,
    /// Of the Runtime and its Pods.
    pub events: &'a [Event],
}

/// Everything, in sections.
pub fn describe(runtime: &Runtime, pool: &Pool<'_>, now: Timestamp, palette: Palette) -> String {
    let Pool { pods, instances, runs, events: events_ } = *pool;
    let mut text = runtime::card(runtime, now, palette);
    let status = runtime.status.clone().unwrap_or_default();
    section(&mut text, "Conditions", &conditions(&status.conditions, now, palette), palette);
    let by_name: BTreeMap<String, &RuntimeInstance> = instances.iter().map(|i| (i.name_any(), i)).collect();
    section(&mut text, "Pods", &self::pods(pods, &by_name, now, palette), palette);
    section(&mut text, "Not ready", &not_ready(pods), palette);
    section(&mut text, "Devices", &devices(instances, runs, palette), palette);
    // The Pods of one pool are alike; one ladder speaks for all that agree with it.
    for (axes, of) in ladders(instances) {
        section(
            &mut text,
            &format!("Isolation ({})", of.join(", ")),
            &isolation_table(&axes, palette),
            palette,
        );
    }
    section(&mut text, "Events", &events(events_, now, palette), palette);
    text
}

fn pods(
    pods: &[Pod],
    instances: &BTreeMap<String, &RuntimeInstance>,
    now: Timestamp,
    palette: Palette,
) -> String {
    let mut table =
        Table::new(&["NAME", "STATE", "READY", "RESTARTS", "HEARTBEAT", "SERVER", "OFFERS", "AGE"])
            .indented(2);
    for pod in pods {
        let status = pod.status.clone().unwrap_or_default();
        let containers = status.container_statuses.unwrap_or_default();
        let ready = condition(pod, "Ready") == Some(true);
        let heartbeat = pod_conditions(pod)
            .find(|c| c.type_ == names::RUNTIMED_READY)
            .and_then(|c| c.last_probe_time.as_ref());
        let instance = instances.get(&pod.name_any()).and_then(|i| i.status.as_ref());
        let server = instance.and_then(|i| i.server.as_ref()).map(|s| format!("{} {}", s.name, s.version));
        let state = match pod.metadata.deletion_timestamp {
            Some(_) => "Terminating",
            None => status.phase.as_deref().unwrap_or("Unknown"),
        };
        table.push(vec![
            pod.name_any().into(),
            printable(state, false).into(),
            Cell::styled(if ready { "yes" } else { "no" }, if ready { style::GOOD } else { style::WARN }),
            containers.iter().map(|c| c.restart_count).sum::<i32>().to_string().into(),
            heartbeat
                .map_or_else(|| "-".to_owned(), |time| format!("{} ago", age::since(Some(time.0), now)))
                .into(),
            or_dash(server.as_deref()).into(),
            instance.map_or_else(|| "-".to_owned(), |i| quantity::list(&i.allocatable)).into(),
            age::since(pod.metadata.creation_timestamp.as_ref().map(|time| time.0), now).into(),
        ]);
    }
    if table.is_empty() { String::new() } else { table.render(palette) }
}

fn pod_conditions(pod: &Pod) -> impl Iterator<Item = &k8s_openapi::api::core::v1::PodCondition> {
    pod.status.iter().flat_map(|status| status.conditions.iter().flatten())
}

fn condition(pod: &Pod, kind: &str) -> Option<bool> {
    pod_conditions(pod).find(|condition| condition.type_ == kind).map(|condition| condition.status == "True")
}

/// Why Pods take no Runs: the conditions that do not hold and the containers that wait.
fn not_ready(pods: &[Pod]) -> String {
    let mut text = String::new();
    for pod in pods.iter().filter(|pod| condition(pod, "Ready") != Some(true)) {
        let mut reasons: Vec<String> = Vec::new();
        for c in pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten()) {
            let state = c.state.clone().unwrap_or_default();
            if let Some(waiting) = state.waiting {
                reasons.push(told(&format!("container {} waits", c.name), waiting.reason, waiting.message));
            } else if let Some(ended) = state.terminated {
                let what = format!("container {} ended with code {}", c.name, ended.exit_code);
                reasons.push(told(&what, ended.reason, ended.message));
            }
        }
        for c in pod_conditions(pod)
            .filter(|c| c.status != "True" && c.type_ != "Ready" && c.type_ != "ContainersReady")
        {
            reasons.push(told(&c.type_, c.reason.clone(), c.message.clone()));
        }
        if !pod_conditions(pod).any(|c| c.type_ == names::RUNTIMED_READY) {
            reasons.push("runtimed has not reported yet".into());
        }
        for reason in reasons {
            text.push_str(&format!("  {}: {}\n", pod.name_any(), printable(&reason, false)));
        }
    }
    text
}

fn told(what: &str, reason: Option<String>, message: Option<String>) -> String {
    let words: Vec<String> =
        [reason, message].into_iter().flatten().filter(|word| !word.is_empty()).collect();
    if words.is_empty() { what.to_owned() } else { format!("{what}: {}", words.join(": ")) }
}

fn devices(instances: &[RuntimeInstance], runs: &BTreeMap<String, String>, palette: Palette) -> String {
    let mut table =
        Table::new(&["POD", "RESOURCE", "ID", "MODEL", "MEMORY", "HEALTH", "HELD BY"]).indented(2);
    for instance in instances {
        for device in instance.status.iter().flat_map(|status| &status.devices) {
            let health = device.health.as_ref();
            let shown = health.map(|h| match h.reason.is_empty() {
                true => h.state.clone(),
                false => format!("{}: {}", h.state, h.reason),
            });
            let look = match health.map(|h| h.state.as_str()) {
                None | Some("Healthy") => style::GOOD,
                Some(_) => style::BAD,
            };
            let name = |uid: &String| printable(runs.get(uid).unwrap_or(uid), false);
            let holders: Vec<String> =
                device.allocations.iter().map(|a| format!("{} ({})", name(&a.run_uid), a.amount)).collect();
            table.push(vec![
                instance.name_any().into(),
                printable(&device.resource, false).into(),
                printable(&device.id, false).into(),
                or_dash(Some(&device.model)).into(),
                or_dash(device.memory.as_ref().map(|memory| memory.0.as_str())).into(),
                Cell::styled(or_dash(shown.as_deref()), look),
                or_dash(Some(&holders.join(", "))).into(),
            ]);
        }
    }
    if table.is_empty() { String::new() } else { table.render(palette) }
}

type Ladder = Vec<kruntimes_api::run::IsolationAxis>;

fn ladders(instances: &[RuntimeInstance]) -> Vec<(Ladder, Vec<String>)> {
    let mut found: Vec<(Ladder, Vec<String>)> = Vec::new();
    for instance in instances {
        let axes = instance.status.as_ref().map(|status| status.isolation.clone()).unwrap_or_default();
        match found.iter_mut().find(|(known, _)| *known == axes) {
            Some((_, of)) => of.push(instance.name_any()),
            None => found.push((axes, vec![instance.name_any()])),
        }
    }
    found
}
