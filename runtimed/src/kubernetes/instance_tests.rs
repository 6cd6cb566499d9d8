use super::*;

fn annotations() -> BTreeMap<String, String> {
    let slashed = r#"{"example.com/fpga":"1","example.com/licence":"3"}"#;
    let pairs = [
        ("kruntimes.io/capacity.runs", "8"),
        ("kruntimes.io/capacity.tokens", "3"),
        ("kruntimes.io/capacity", slashed),
        ("other", "1"),
    ];
    pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).into()
}

#[test]
fn the_server_is_the_truth_and_the_annotations_fill_in() {
    let describe = v1::DescribeResponse {
        name: "bash".into(),
        protocol: 1,
        resources: vec![v1::Resource {
            name: "tokens".into(),
            kind: "Counted".into(),
            allocatable: "2".into(),
        }],
        accounting: vec![v1::AccountingSource { figure: "cpu".into(), source: "rusage".into() }],
        devices: vec![v1::InventoryDevice {
            resource: "gpu".into(),
            id: "0".into(),
            memory_bytes: 80 << 30,
            health: Some(v1::DeviceHealth { state: "Lost".into(), since: 1, ..Default::default() }),
            ..Default::default()
        }],
        ..Default::default()
    };
    let status = instance_status(Some(&describe), &annotations());
    let amounts: Vec<(&str, &str)> =
        status.allocatable.iter().map(|(name, amount)| (&**name, &*amount.0)).collect();
    let slashed = [("example.com/fpga", "1"), ("example.com/licence", "3")];
    assert_eq!(amounts, [slashed[0], slashed[1], ("runs", "8"), ("tokens", "2")]);
    assert_eq!(status.accounting["cpu"], "rusage");
    assert_eq!(status.devices[0].memory.as_ref().unwrap().0, "80Gi");
    assert!(status.devices[0].health.as_ref().unwrap().since.is_some());
}

#[test]
fn more_names_than_the_object_has_room_for_leave_the_slots() {
    let resource = |index: i32| v1::Resource {
        name: format!("a.example.com/{index:02}"),
        allocatable: "1".into(),
        ..Default::default()
    };
    let describe = v1::DescribeResponse { resources: (0..40).map(resource).collect(), ..Default::default() };
    let status = instance_status(Some(&describe), &annotations());
    assert_eq!(status.allocatable.len(), bounds::NAMES);
    assert_eq!(&*status.allocatable["runs"].0, "8");
}

#[test]
fn a_baseline_server_offers_what_its_pod_promises() {
    let status = instance_status(None, &BTreeMap::new());
    assert_eq!((status.server.unwrap().protocol, &*status.allocatable["runs"].0), (0, "2"));
}
