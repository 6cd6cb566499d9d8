//! What each Pod offers, told to its three readers: the scheduler, the sidecar and the server.

use std::collections::BTreeMap;

use kruntimes_api::Runtime;
use kruntimes_api::bounds::NAMES;
use kruntimes_api::names::{CAPACITY_ANNOTATION, CAPACITY_ANNOTATION_PREFIX, DEFAULT_RUNS};
use kruntimes_api::runtime::{ResourceDefinition, ResourceKind, SchedulingMode};
use kruntimes_resources::{Amount, Definition, Kind, check, check_all, kind_of, names};

use super::TemplateError;

/// Everything that a Pod of `runtime` offers, by name; `runs` is always among it.
pub(super) fn offers(runtime: &Runtime) -> Result<Vec<Definition>, TemplateError> {
    let spec = &runtime.spec;
    let mut offers = BTreeMap::from([(names::RUNS, counted(names::RUNS, DEFAULT_RUNS.into()))]);
    for own in &spec.resources {
        let devices = i64::try_from(own.devices.len()).unwrap_or(i64::MAX);
        offers.insert(&own.name, Definition { amount: Amount::whole(devices), ..defined(own) });
    }
    for (name, quantity) in spec.capacity.iter().flat_map(|capacity| &capacity.resources) {
        let negative = quantity.0.starts_with('-');
        let text = quantity.0.trim_start_matches('-');
        let offer =
            offers.entry(name).or_insert_with(|| Definition { kind: kind_of(name), ..counted(name, 0) });
        let amount = check(name, text, offer.kind).map_err(TemplateError::Capacity)?;
        // As in the baseline, what is not positive is as if it were not there; but then `runs` would mean two.
        if !negative && amount.is_positive() {
            offer.amount = amount;
        } else if name == names::RUNS {
            return Err(TemplateError::NoRuns { given: quantity.0.clone() });
        }
    }
    let offers: Vec<Definition> = offers.into_values().filter(|offer| offer.amount.is_positive()).collect();
    check_all(&offers).map_err(TemplateError::Resource)?;
    if offers.len() > NAMES {
        return Err(TemplateError::TooManyNames { given: offers.len(), most: NAMES });
    }
    Ok(offers)
}

fn counted(name: &str, amount: i64) -> Definition {
    let amount = Amount::whole(amount);
    Definition { name: name.into(), kind: Kind::Counted, amount, devices: Vec::new(), env: None }
}

fn defined(own: &ResourceDefinition) -> Definition {
    Definition {
        name: own.name.clone(),
        kind: match own.kind {
            ResourceKind::Divisible => Kind::Divisible,
            ResourceKind::Counted => Kind::Counted,
            ResourceKind::Indexed => Kind::Indexed,
        },
        amount: Amount::ZERO,
        devices: own.devices.clone(),
        env: own.env.clone(),
    }
}

/// Capacity annotations, one per name as the baseline has them. A name with a slash cannot be part of
/// an annotation's name: those go into one of our own, from which the sidecar writes the RuntimeInstance.
pub(super) fn annotations(offers: &[Definition]) -> BTreeMap<String, String> {
    let mut annotations = BTreeMap::new();
    let mut slashed = BTreeMap::new();
    for offer in offers {
        if offer.name.contains('/') {
            slashed.insert(&offer.name, offer.amount);
        } else {
            annotations
                .insert(format!("{CAPACITY_ANNOTATION_PREFIX}{}", offer.name), offer.amount.to_string());
        }
    }
    if !slashed.is_empty() {
        annotations.insert(CAPACITY_ANNOTATION.into(), json(&slashed));
    }
    annotations
}

/// What the server leases to Runs. Where the backend queues, that is only the slots.
pub(super) fn for_the_server(runtime: &Runtime, offers: &[Definition]) -> String {
    let mode = runtime.spec.scheduling.as_ref().and_then(|scheduling| scheduling.mode);
    if mode == Some(SchedulingMode::Delegated) {
        return String::new();
    }
    json(offers)
}

/// Strings, numbers and lists of them always serialize.
fn json(value: &(impl serde::Serialize + ?Sized)) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn runtime(spec: serde_json::Value) -> Runtime {
        serde_json::from_value(json!({
            "apiVersion": "kruntimes.io/v1alpha1", "kind": "Runtime", "metadata": {"name": "a"}, "spec": spec,
        }))
        .unwrap()
    }

    #[test]
    fn each_reader_is_told_all_that_there_is() {
        let spec = json!({
            "template": {},
            "capacity": {"resources": {"memory": "1Gi", "example.com/licence": 3, "none": 0, "less": "-1"}},
            "resources": [
                {"name": "example.com/fpga", "kind": "Indexed", "devices": ["/dev/a", "/dev/b"], "env": "FPGAS"},
                {"name": "example.com/later", "kind": "Counted"},
            ],
        });
        let offers = offers(&runtime(spec.clone())).unwrap();
        let told: Vec<_> = offers.iter().map(|o| (&*o.name, o.kind, o.amount.to_binary_string())).collect();
        assert_eq!(
            told,
            [
                ("example.com/fpga", Kind::Indexed, "2".into()),
                ("example.com/licence", Kind::Counted, "3".into()),
                ("memory", Kind::Divisible, "1Gi".into()),
                ("runs", Kind::Counted, "2".into()),
            ]
        );
        let annotations = annotations(&offers);
        assert_eq!(annotations["kruntimes.io/capacity.runs"], "2");
        assert_eq!(annotations["kruntimes.io/capacity.memory"], "1073741824");
        assert_eq!(
            annotations["kruntimes.io/capacity"],
            r#"{"example.com/fpga":"2","example.com/licence":"3"}"#
        );
        assert_eq!(annotations.len(), 3);
        let text = for_the_server(&runtime(spec.clone()), &offers);
        assert_eq!(serde_json::from_str::<Vec<Definition>>(&text).unwrap(), offers);
        let mut delegated = spec;
        delegated["scheduling"] = json!({"mode": "Delegated"});
        assert_eq!(for_the_server(&runtime(delegated), &offers), "");
    }

    #[test]
    fn more_names_than_a_status_takes_are_refused() {
        let named = |count: usize| -> BTreeMap<String, i64> {
            (0..count).map(|index| (format!("example.com/n-{index}"), 1)).collect()
        };
        let of = |count| json!({"template": {}, "capacity": {"resources": named(count)}});
        assert_eq!(offers(&runtime(of(31))).unwrap().len(), 32, "with `runs`");
        let error = offers(&runtime(of(32))).unwrap_err();
        assert_eq!(error.reason(), "InvalidCapacity");
        let text = error.to_string();
        assert!(text.contains("33 names") && text.contains("at most 32"), "{text}");
        let mut none = of(32);
        none["capacity"]["resources"]["example.com/n-0"] = json!(0);
        assert!(offers(&runtime(none)).is_ok(), "what is not offered is no name");
    }

    #[test]
    fn a_device_of_two_resources_is_refused() {
        let of = |name: &str| json!({"name": name, "kind": "Indexed", "devices": ["/dev/fpga0"]});
        let spec = json!({"template": {}, "resources": [of("example.com/a"), of("example.com/b")]});
        let text = offers(&runtime(spec)).unwrap_err().to_string();
        assert!(
            ["example.com/a", "example.com/b", "/dev/fpga0"].iter().all(|word| text.contains(word)),
            "{text}"
        );
    }

    #[test]
    fn a_capacity_that_contradicts_the_devices_is_refused() {
        let resources = json!([{"name": "example.com/fpga", "kind": "Indexed", "devices": ["a", "b"]}]);
        let spec = json!({"template": {}, "resources": resources, "capacity": {"resources": {"example.com/fpga": 4}}});
        let error = offers(&runtime(spec)).unwrap_err();
        assert_eq!(error.reason(), "InvalidCapacity");
        let text = error.to_string();
        assert!(
            text.contains("spec.resources") && text.contains("example.com/fpga") && text.contains('4'),
            "{text}"
        );
    }
}
