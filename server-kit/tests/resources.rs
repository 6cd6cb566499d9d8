//! What Runs hold, on a real server: told, given out whole, billed, and kept over the server's death.
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panic")]

mod common;

use std::collections::BTreeMap;
use std::process::Child;

use common::*;
use kruntimes_proto::v1::watch_event::Event;
use kruntimes_proto::v1::{DescribeRequest, ExecuteRequest, InventoryDevice, StatusResponse, WatchRequest};
use tonic::Code;

/// What a server offers: two devices that are files of this test's own, since they change hands, and amounts.
struct Offers {
    _dir: tempfile::TempDir,
    cards: [String; 2],
    flag: String,
}

fn offers() -> Offers {
    let dir = folder();
    let cards = ["card-0", "card-1"].map(|name| {
        let path = dir.path().join(name);
        std::fs::write(&path, "").expect("file");
        path.display().to_string()
    });
    let [first, second] = &cards;
    let flag = format!(
        r#"--resources=[
    {{"name": "runs", "kind": "Counted", "amount": "8"}},
    {{"name": "example.com/fpga", "kind": "Indexed", "amount": "2", "devices": ["{first}", "{second}"], "env": "FPGAS"}},
    {{"name": "example.com/licence", "kind": "Counted", "amount": "3", "env": "LICENCES"}},
    {{"name": "example.com/bandwidth", "kind": "Divisible", "amount": "100M"}}]"#
    );
    Offers { _dir: dir, cards, flag }
}

fn asking(request: ExecuteRequest, wants: &[(&str, &str)]) -> ExecuteRequest {
    let resources = wants.iter().map(|(name, amount)| ((*name).into(), (*amount).into())).collect();
    ExecuteRequest { resources, ..request }
}

fn figures(status: &StatusResponse) -> BTreeMap<&str, f64> {
    let usage = status.usage.as_ref().expect("usage");
    usage.figures.iter().map(|figure| (figure.name.as_str(), figure.value)).collect()
}

async fn devices(server: &mut TestServer) -> Vec<InventoryDevice> {
    server.events.describe(DescribeRequest {}).await.expect("describe").into_inner().devices
}

#[tokio::test]
async fn a_run_is_told_what_it_holds_and_pays_for_the_time() {
    let Offers { _dir, cards, flag } = offers();
    let mut server = TestServer::start(&[&flag]).await;
    let wants = [("example.com/fpga", "2"), ("example.com/licence", "1"), ("example.com/bandwidth", "25M")];
    let show = "echo $FPGAS $LICENCES; echo $KRUNTIME_DEVICES; sleep 0.3";
    server.execute(asking(script("a", show), &wants)).await.expect("accepted");
    let status = server.end("a").await;
    let mut lines = status.stdout.lines();
    assert_eq!(lines.next(), Some(format!("{},{} 1", cards[0], cards[1]).as_str()));
    assert!(
        lines
            .next()
            .expect("JSON")
            .contains(&format!(r#"{{"resource":"example.com/fpga","id":"{}","amount":"1"}}"#, cards[1]))
    );
    let held: Vec<_> = status.devices.iter().map(|d| (&*d.resource, &*d.id, &*d.amount)).collect();
    assert_eq!(
        held,
        [
            ("example.com/bandwidth", "", "25M"),
            ("example.com/fpga", cards[0].as_str(), "1"),
            ("example.com/fpga", cards[1].as_str(), "1"),
            ("example.com/licence", "", "1"),
        ]
    );
    let figures = figures(&status);
    let wall = figures["wall_seconds"];
    // Held from just before the start until just after the end.
    for (name, amount) in [("fpga", 2.0), ("licence", 1.0), ("bandwidth", 25e6)] {
        let seconds = figures[format!("example.com/{name}_held_seconds").as_str()] / amount;
        assert!(seconds >= wall, "{name}: {seconds} of {wall}");
        assert!(seconds < wall + 30.0, "{name}: {seconds} of {wall}");
    }
}

#[tokio::test]
async fn what_does_not_fit_is_refused_and_the_inventory_is_told() {
    let Offers { _dir, cards, flag } = offers();
    let mut server = TestServer::start(&[&flag]).await;
    let mut watch = server.events.watch(WatchRequest {}).await.expect("watch").into_inner();
    server.execute(asking(script("a", "sleep 600"), &[("example.com/fpga", "1")])).await.expect("accepted");
    let refused = server
        .execute(asking(script("b", "true"), &[("example.com/fpga", "2"), ("example.com/licence", "3")]))
        .await
        .expect_err("no two devices");
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert_eq!(refused.message(), "example.com/fpga: 2 asked for, 1 free");
    let refused = server.execute(asking(script("b", "true"), &[("nvidia.com/gpu", "1")])).await;
    let refused = refused.expect_err("unknown");
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().starts_with("resources[nvidia.com/gpu]: unknown resource; this server has:"));
    // Nothing of the licences was lost to the refusal.
    server.execute(asking(script("c", "true"), &[("example.com/licence", "3")])).await.expect("accepted");
    let told = in_time(async {
        loop {
            let event = watch.message().await.expect("event").expect("event").event;
            if let Some(Event::Inventory(describe)) = event
                && !describe.devices[0].allocations.is_empty()
            {
                return describe;
            }
        }
    })
    .await;
    assert_eq!((&*told.devices[0].id, &*told.devices[0].allocations[0].id), (cards[0].as_str(), "a"));
    assert!(told.resources.iter().any(|r| r.name == "example.com/bandwidth" && r.allocatable == "100M"));
}

/// The supervisor of the server's only execution. None for a moment while its shell becomes another program.
fn supervisor(server: &Child, marker: &str) -> Option<i32> {
    let nursery = children(i32::try_from(server.id()).expect("pid"));
    let supervisors = nursery.iter().flat_map(|pid| children(*pid));
    let with_child = |pid: &i32| {
        children(*pid).iter().any(|child| {
            std::fs::read_to_string(format!("/proc/{child}/cmdline")).is_ok_and(|line| line.contains(marker))
        })
    };
    supervisors.into_iter().find(with_child)
}

#[tokio::test]
async fn what_a_killed_servers_run_holds_stays_held_until_that_is_gone() {
    let Offers { _dir, flag, .. } = offers();
    let mut server = TestServer::start(&[&flag]).await;
    let wants = [("example.com/fpga", "2")];
    server.execute(asking(script("a", "sleep 987654"), &wants)).await.expect("accepted");
    server.running("a").await;
    let mut found = None;
    eventually("a supervisor", || {
        found = supervisor(&server.child, "987654");
        found.is_some()
    })
    .await;
    let supervisor = found.expect("found");
    // It cannot end its Run until it goes on.
    signal(supervisor, "STOP");
    server.kill();
    let dir = std::mem::replace(&mut server.dir, tempfile::tempdir().expect("folder"));
    let child = command(&example("shell"), dir.path(), &[&flag]).spawn().expect("server starts");
    let mut second = TestServer::attach(child, dir).await;
    let refused = second.execute(asking(script("b", "true"), &wants)).await.expect_err("still held");
    assert_eq!(refused.message(), "example.com/fpga: 2 asked for, 0 free");
    let kept = devices(&mut second).await;
    assert!(
        kept.iter().all(|device| device.health.as_ref().is_some_and(|health| health.state == "Quarantined"))
    );
    signal(supervisor, "CONT");
    in_time(async {
        while devices(&mut second).await.iter().any(|device| !device.allocations.is_empty()) {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    })
    .await;
    second.execute(asking(script("b", "true"), &wants)).await.expect("free again");
    second.end("b").await;
    let left = std::fs::read_dir(second.dir.path().join("run/.leases")).expect("folder").count();
    assert_eq!(left, 0, "no file is left");
}

#[tokio::test]
async fn a_provider_measures_and_cleans_up() {
    let dir = tempfile::tempdir().expect("tempdir");
    let mut command = command(&example("scratch"), dir.path(), &[]);
    let child = command.env("TMPDIR", dir.path()).spawn().expect("server starts");
    let mut server = TestServer::attach(child, dir).await;
    let write = "echo -n 12345 > $SCRATCH/file; echo $SCRATCH";
    server.execute(asking(job("a", &[write]), &[("example.com/scratch", "1")])).await.expect("accepted");
    let status = server.end("a").await;
    assert_eq!(figures(&status)["scratch_bytes"], 5.0);
    let folder = std::path::PathBuf::from(status.stdout.trim());
    assert_eq!(std::fs::read_dir(folder).expect("the folder stays").count(), 0, "and is empty");
}

/// Every program of the tutorial is one of the examples, word for word.
#[test]
fn the_tutorial_shows_what_is_built() {
    let tutorial = include_str!("../../docs/write-a-runtime-server.md");
    let examples = [
        include_str!("../examples/hello.rs"),
        include_str!("../examples/voices.rs"),
        include_str!("../examples/scratch.rs"),
    ];
    let shown: Vec<&str> =
        tutorial.split("```rust\n").skip(1).filter_map(|part| part.split("```").next()).collect();
    assert_eq!(shown, examples);
}

#[tokio::test]
async fn a_server_brings_its_own_resource_along() {
    assert!(include_str!("../examples/voices.rs").lines().count() < 40);
    let dir = tempfile::tempdir().expect("tempdir");
    let child = command(&example("voices"), dir.path(), &[]).spawn().expect("server starts");
    let mut server = TestServer::attach(child, dir).await;
    server.execute(asking(job("a", &["world"]), &[("example.com/voice", "1")])).await.expect("accepted");
    assert_eq!(server.end("a").await.stdout, "Hello, world, from alto!\n");
    server.execute(job("b", &["world"])).await.expect("accepted");
    assert_eq!(server.end("b").await.stdout, "Hello, world, from nobody!\n");
}
