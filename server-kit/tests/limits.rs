//! Limits, their ends, and what was used, on whatever kernel this is: version 1, version 2, or neither.
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panic")]

mod common;

use common::{TestServer, command, eventually, example, script, signal};
use kruntimes_proto::v1::{
    DescribeRequest, ExecuteRequest, ExecutionState, IsolationLevel, StatusResponse, StopCause,
};

/// The mechanism of an axis.
async fn mechanism(server: &mut TestServer, axis: &str) -> String {
    let told = server.events.describe(DescribeRequest {}).await.expect("describe").into_inner();
    let axes = told.isolation.expect("isolation").axes;
    let found = axes.into_iter().find(|told| told.axis == axis).expect("every axis is told");
    println!("{}: {} ({:?}) {}", found.axis, found.mechanism, found.level(), found.reason);
    found.mechanism
}

/// A server whose Runs have groups with limits; `None` with a printed reason where that cannot be.
async fn limited() -> Option<TestServer> {
    let mut server = TestServer::start_contained(&["--grace=1"]).await?;
    let mechanism = mechanism(&mut server, "limits").await;
    if mechanism.starts_with("cgroup") {
        return Some(server);
    }
    println!("skipped: no control groups with limits here, only {mechanism}");
    None
}

fn with(mut request: ExecuteRequest, limits: &[(&str, &str)]) -> ExecuteRequest {
    request.limits = limits.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
    request
}

async fn run(server: &mut TestServer, id: &str, text: &str, limits: &[(&str, &str)]) -> StatusResponse {
    server.execute(with(script(id, text), limits)).await.expect("accepted");
    server.end(id).await
}

/// A figure and its source.
fn figure(status: &StatusResponse, name: &str) -> Option<(f64, String)> {
    let usage = status.usage.as_ref().expect("usage");
    usage.figures.iter().find(|f| f.name == name).map(|f| (f.value, f.source.clone()))
}

fn counted(status: &StatusResponse, name: &str) -> f64 {
    let (value, source) = figure(status, name).unwrap_or_else(|| panic!("no {name}: {status:?}"));
    assert_eq!(source, "cgroup", "{name}");
    value
}

/// `tail` keeps what has no line end.
const HOG: &str = "head -c 64M /dev/zero | tail > /dev/null";

#[tokio::test]
async fn too_much_memory_ends_the_whole_run_and_no_other() {
    let Some(mut server) = limited().await else { return };
    server.execute(with(script("neighbour", "sleep 1000"), &[("memory", "64Mi")])).await.expect("accepted");
    server.running("neighbour").await;
    let text = format!("sleep 1000 & {HOG}; wait");
    let end = run(&mut server, "hog", &text, &[("memory", "32Mi")]).await;
    assert_eq!(end.stop_cause(), StopCause::OutOfMemory, "{end:?}");
    assert_eq!(end.state(), ExecutionState::Failed);
    assert!(end.error_message.contains("limit of 32Mi"), "{}", end.error_message);
    assert!(end.error_message.contains("peak "), "{}", end.error_message);
    let (peak, limit) = (counted(&end, "memory_peak_bytes"), f64::from(32 << 20));
    assert!(peak <= limit && peak > limit * 0.9, "{peak}");
    assert!(counted(&end, "memory_oom_kills") >= 1.0);
    assert_eq!(server.status("neighbour").await.expect("status").state(), ExecutionState::Running);
    let fits =
        run(&mut server, "fits", "head -c 4M /dev/zero | tail > /dev/null", &[("memory", "32Mi")]).await;
    assert_eq!(fits.state(), ExecutionState::Succeeded, "{fits:?}");
}

#[tokio::test]
async fn too_many_processes_end_the_run() {
    let Some(mut server) = limited().await else { return };
    // It would go on for ever: bash tries again, and what it started sleeps.
    let bomb = "f() { while true; do sleep 1000 & done; }; f & f & wait";
    let end = run(&mut server, "bomb", bomb, &[("pids", "16")]).await;
    assert_eq!(end.stop_cause(), StopCause::PidsExceeded, "{end:?}");
    assert!(end.error_message.contains("limit of 16; peak 16"), "{}", end.error_message);
    assert!((counted(&end, "pids_peak") - 16.0).abs() < 0.5);
    let few = run(&mut server, "few", "sleep 0.01 & sleep 0.01 & wait", &[("pids", "16")]).await;
    assert_eq!(few.state(), ExecutionState::Succeeded, "{few:?}");
}

#[tokio::test]
async fn cpu_is_held_back_and_counted() {
    let Some(mut server) = limited().await else { return };
    // Long enough that what one period took too much is taken off later ones.
    let spin = "while [ $SECONDS -lt 3 ]; do :; done";
    let end = run(&mut server, "slow", spin, &[("cpu", "200m")]).await;
    let cpu =
        |status: &StatusResponse| counted(status, "cpu_user_seconds") + counted(status, "cpu_system_seconds");
    let part = cpu(&end) / figure(&end, "wall_seconds").expect("wall").0;
    assert!(part < 0.3, "{part} of the time on a CPU");
    // On a busy machine it may never come to its limit.
    let throttled = (counted(&end, "cpu_throttled_periods"), counted(&end, "cpu_throttled_seconds"));
    assert!(part < 0.19 || throttled.0 > 0.0 && throttled.1 > 0.0, "{throttled:?} at {part}");
    let short = run(&mut server, "short", "true", &[("cpu", "200m")]).await;
    assert!(cpu(&short) > 0.0, "a Run of a few milliseconds has its record, too");
}

/// What `times` of a shell says it and its children used, in seconds.
fn times(text: &str) -> f64 {
    let one = |word: &str| {
        let (minutes, seconds) = word.trim_end_matches('s').split_once('m').expect("0m0.000s");
        minutes.parse::<f64>().expect("minutes") * 60.0 + seconds.parse::<f64>().expect("seconds")
    };
    text.split_whitespace().map(one).sum()
}

#[tokio::test]
async fn cpu_seconds_are_those_that_the_run_itself_sees() {
    let Some(mut server) = limited().await else { return };
    // Work, not time: an emulated processor needs many times as long for it.
    let text = "for i in 1 2; do i=0; (while [ $((i++)) -lt 5000 ]; do :; done); done; times";
    let end = run(&mut server, "spin", text, &[]).await;
    assert_eq!(end.state(), ExecutionState::Succeeded, "{end:?}");
    let own = times(&end.stdout);
    let told = counted(&end, "cpu_user_seconds") + counted(&end, "cpu_system_seconds");
    // What comes before exec and after `times` is in the record as well, and the shell prints milliseconds.
    assert!(told >= own * 0.99 - 0.005, "{told} told, {own} seen");
    assert!(told <= own * 1.01 + 0.05, "{told} told, {own} seen");
}

#[tokio::test]
async fn what_was_written_directly_is_counted() {
    let Some(mut server) = limited().await else { return };
    let file = server.work_dir().join("direct");
    let text = format!("dd if=/dev/zero of={} bs=1M count=8 oflag=direct 2>&1", file.display());
    let end = run(&mut server, "direct", &text, &[]).await;
    assert_eq!(end.state(), ExecutionState::Succeeded, "{}", end.stdout);
    let (written, source) = figure(&end, "block_write_bytes").expect("told at every level");
    let expected = f64::from(8 << 20);
    assert!((written - expected).abs() <= expected * 0.01, "{written} from {source}");
}

#[tokio::test]
async fn too_much_storage_ends_the_run_also_when_it_ended_by_itself() {
    for server in [TestServer::start(&[]).await, TestServer::start(&["--cgroup-parent=none"]).await] {
        let mut server = server;
        for (id, text) in [
            ("stays", "head -c 8M /dev/zero > big; sleep 1000"),
            ("leaves", "mkdir deep; head -c 8M /dev/zero > deep/big"),
        ] {
            let folder = server.work_dir().join(id);
            std::fs::create_dir(&folder).expect("folder");
            let mut request = with(script(id, text), &[("ephemeral-storage", "4Mi")]);
            request.working_dir = folder.to_string_lossy().into_owned();
            server.execute(request).await.expect("accepted");
            let end = server.end(id).await;
            assert_eq!(end.stop_cause(), StopCause::StorageExceeded, "{end:?}");
            assert!(end.error_message.contains("limit of 4Mi"), "{}", end.error_message);
            let (peak, source) = figure(&end, "storage_peak_bytes").expect("peak");
            assert!(peak > f64::from(4 << 20), "{peak}");
            assert_eq!(source, "sampled");
        }
    }
}

/// Between two looks a fast writer could fill a disk: no single file grows beyond the limit.
#[tokio::test]
async fn no_file_outgrows_the_storage_limit() {
    let big = "head -c 2G /dev/zero > big";
    let limits = [("ephemeral-storage", "4Mi")];
    for args in [&[][..], &["--cgroup-parent=none"]] {
        let mut server = TestServer::start(args).await;
        let folder = server.work_dir().join("big");
        std::fs::create_dir(&folder).expect("folder");
        let mut request = with(script("big", big), &limits);
        request.working_dir = folder.to_string_lossy().into_owned();
        server.execute(request).await.expect("accepted");
        let end = server.end("big").await;
        assert_eq!(end.stop_cause(), StopCause::StorageExceeded, "{end:?}");
        let written = std::fs::metadata(folder.join("big")).expect("file").len();
        assert!(written <= 5 << 20, "{written}");
    }
    // A folder that all Runs may write to has no limit.
    let shared = tempfile::tempdir().expect("tempdir");
    let path = shared.path().join("large").display().to_string();
    let mut server = TestServer::start(&[&format!("--shared-path={}", shared.path().display())]).await;
    let end = run(&mut server, "r", &format!("head -c 8M /dev/zero > {path}"), &limits).await;
    assert_eq!(end.state(), ExecutionState::Succeeded, "{end:?}");
}

/// What a Run leased of the disk is held where that can be, and told to be only counted elsewhere.
#[tokio::test]
async fn operations_on_the_disk_are_held_to_what_was_leased() {
    let offer = r#"--resources=[{"name":"kruntimes.io/storage-iops","kind":"Divisible","amount":"100k"}]"#;
    for (args, level) in [(&[offer][..], "groups"), (&[offer, "--cgroup-parent=none"], "none")] {
        // On a disk: /tmp may be memory.
        let dir = tempfile::Builder::new().prefix("kruntimes-").tempdir_in("/var/tmp").expect("tempdir");
        let child = command(&example("shell"), dir.path(), args).spawn().expect("server starts");
        let mut server = TestServer::attach(child, dir).await;
        let told = server.events.describe(DescribeRequest {}).await.expect("describe").into_inner();
        let axes = told.isolation.expect("isolation").axes;
        let limits = axes.iter().find(|axis| axis.axis == "limits").expect("told");
        println!("{level}: {}", limits.reason);
        let held = limits.reason.contains("kruntimes.io/storage-iops is held on disk");
        assert!(
            held || limits.reason.contains("kruntimes.io/storage-iops is accounted only: "),
            "{limits:?}"
        );
        assert!(!(held && level == "none"));
        let direct = if held { "oflag=direct" } else { "oflag=sync" };
        let mut wall = async |id: &str, iops: &str| {
            let file = server.work_dir().join(id);
            let text = format!("dd if=/dev/zero of={} bs=4k count=100 {direct} 2>&1", file.display());
            let mut request = script(id, &text);
            request.resources = [("kruntimes.io/storage-iops".to_owned(), iops.to_owned())].into();
            server.execute(request).await.expect("accepted");
            let end = server.end(id).await;
            assert_eq!(end.state(), ExecutionState::Succeeded, "{end:?}");
            figure(&end, "wall_seconds").expect("wall").0
        };
        let (slow, fast) = (wall("slow", "50").await, wall("fast", "50k").await);
        println!("100 writes: {slow:.2} s with 50 a second, {fast:.2} s with 50000");
        // Of 2 s; the first few come without waiting.
        assert!(!held || slow >= 1.5, "{slow} s");
        assert!(!held || slow > fast, "{slow} s and {fast} s");
    }
}

#[tokio::test]
async fn without_groups_memory_and_processes_are_policed() {
    let Some(mut server) = TestServer::start_contained(&["--cgroup-parent=none"]).await else { return };
    assert_eq!(mechanism(&mut server, "limits").await, "policing");
    assert_eq!(mechanism(&mut server, "kill").await, "subreaper");
    // Holds what it has.
    let hog = "(head -c 32M /dev/zero; sleep 1000) | tail";
    let end = run(&mut server, "hog", hog, &[("memory", "16Mi")]).await;
    assert_eq!(end.stop_cause(), StopCause::OutOfMemory, "{end:?}");
    assert!(end.error_message.contains("limit of 16Mi"), "{}", end.error_message);
    let crowd = "for i in $(seq 40); do sleep 1000 & done; wait";
    let end = run(&mut server, "crowd", crowd, &[("pids", "16")]).await;
    assert_eq!(end.stop_cause(), StopCause::PidsExceeded, "{end:?}");
    // What this level cannot hold back it does not claim to: CPU.
    let spin = "while [ $SECONDS -lt 1 ]; do :; done";
    let end = run(&mut server, "spin", spin, &[("cpu", "200m")]).await;
    let cpu = figure(&end, "cpu_user_seconds").expect("cpu");
    assert_eq!((end.state(), cpu.1.as_str()), (ExecutionState::Succeeded, "rusage"));
}

#[tokio::test]
async fn limits_that_cannot_be_are_refused_by_name() {
    let mut server = TestServer::start(&[]).await;
    for (name, text) in [("memory", "much"), ("pids", "0"), ("cpu", "-1")] {
        let refused = server.execute(with(script("x", "true"), &[(name, text)])).await.expect_err("refused");
        assert_eq!(refused.code(), tonic::Code::InvalidArgument);
        assert!(refused.message().starts_with(&format!("limits[{name}]")), "{}", refused.message());
    }
}

#[tokio::test]
async fn every_run_has_a_group_and_none_is_left() {
    let mut server = TestServer::start(&["--idle-supervisors=2"]).await;
    if !mechanism(&mut server, "kill").await.starts_with("cgroup") {
        println!("skipped: no control groups here");
        return;
    }
    let hierarchies = server.groups.at_depth(1).len();
    for index in 0..20 {
        let escape = "setsid bash -c 'trap \"\" TERM HUP; (sleep 1000 &) ; sleep 1000' & grep -c run- /proc/self/cgroup";
        let end = run(&mut server, &format!("r{index}"), escape, &[]).await;
        assert_eq!(end.stdout.trim(), hierarchies.to_string(), "{end:?}");
    }
    // Two are kept ready.
    let groups = |server: &TestServer| {
        server.groups.at_depth(2).iter().filter(|path| !path.ends_with("server")).count()
    };
    eventually("used leaves are removed", || groups(&server) <= 2 * hierarchies).await;
    signal(server.pid(), "TERM");
    server.child.wait().expect("ended");
    assert_eq!(server.groups.at_depth(1), Vec::<std::path::PathBuf>::new(), "nothing is left");
}

#[tokio::test]
async fn what_a_killed_server_left_is_swept_by_the_next() {
    let mut server = TestServer::start(&[]).await;
    if !mechanism(&mut server, "kill").await.starts_with("cgroup") {
        println!("skipped: no control groups here");
        return;
    }
    server.execute(script("long", "sleep 1000")).await.expect("accepted");
    server.running("long").await;
    let before = server.groups.at_depth(1);
    server.kill();
    assert_eq!(server.groups.at_depth(1), before, "nobody removed them");
    let mut again = command(&example("shell"), server.dir.path(), &[]).spawn().expect("starts again");
    eventually("the old ones are gone", || before.iter().all(|path| !path.exists())).await;
    again.kill().expect("killed");
    again.wait().expect("reaped");
}

#[tokio::test]
async fn a_server_in_a_group_that_is_handed_to_it_makes_room_in_it() {
    let root = std::path::Path::new("/sys/fs/cgroup");
    let offered = std::fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
    if !offered.contains("memory") || !nix::unistd::geteuid().is_root() {
        println!("skipped: no cgroup v2 tree with controllers that this test may write");
        return;
    }
    let dir = tempfile::tempdir().expect("tempdir");
    let groups = common::groups::Groups::of(dir.path());
    let home = root.join(common::groups::parent(dir.path()).strip_prefix("/").expect("absolute"));
    std::fs::create_dir(&home).expect("group");
    // As a container is started: in its group from the beginning, and what is in it is the server alone.
    let inner = command(&example("shell"), dir.path(), &["--cgroup-parent=own"]);
    let enter = format!("echo $$ > {}/cgroup.procs && exec \"$@\"", home.display());
    let mut outer = std::process::Command::new("bash");
    outer.args(["-c", &enter, "bash"]).arg(inner.get_program()).args(inner.get_args());
    let child = outer.stdin(std::process::Stdio::null()).spawn().expect("server starts");
    let mut server = TestServer::attach(child, dir).await;
    assert_eq!(mechanism(&mut server, "limits").await, "cgroup-v2");
    let end = run(&mut server, "hog", HOG, &[("memory", "32Mi")]).await;
    assert_eq!(end.stop_cause(), StopCause::OutOfMemory, "{end:?}");
    let told = server.events.describe(DescribeRequest {}).await.expect("describe").into_inner();
    let levels = told.isolation.expect("isolation").axes.into_iter().map(|axis| axis.level());
    assert!(levels.take(2).all(|level| level != IsolationLevel::None));
    drop((server, groups));
}
