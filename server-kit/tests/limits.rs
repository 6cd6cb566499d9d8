//! Limits, their ends, and what was used, on whatever kernel this is: version 1, version 2, or neither.
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panic")]
#![allow(unsafe_code, reason = "a filter for a child")]

mod common;

use common::place::{Placed, Rights};
use common::{TestServer, command, eventually, example, job, script, signal};
use kruntimes_proto::v1::{
    CancelRequest, DescribeRequest, ExecuteRequest, ExecutionState, IsolationLevel, StatusResponse, StopCause,
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

/// The Pod's limit is everybody's: who meets it because of another has broken nothing.
#[tokio::test]
async fn a_neighbour_is_not_ended_for_the_bomb_of_another() {
    let Some(mut server) = limited().await else { return };
    let pod = server.groups.at_depth(0).into_iter().find(|group| group.join("pids.max").exists());
    let pod = pod.expect("limits have a group above those of the Runs");
    std::fs::write(pod.join("pids.max"), "30").expect("a limit of the Pod");
    let gate = server.work_dir().join("gate");
    let (probe, wait) = (example("probe").display().to_string(), format!("await:{}", gate.display()));
    let innocent = with(job("innocent", &[&probe, &wait, "fork:"]), &[("pids", "20")]);
    server.execute(innocent).await.expect("accepted");
    server.running("innocent").await;
    let greedy = "f() { while true; do sleep 1000 & done; }; f & f & wait";
    server.execute(script("greedy", greedy)).await.expect("accepted");
    let current = || std::fs::read_to_string(pod.join("pids.current")).expect("counted");
    eventually("the Pod is full", || current().trim() == "30").await;
    std::fs::write(&gate, "").expect("gate");
    let end = server.end("innocent").await;
    assert!(end.stdout.contains("fork: EAGAIN"), "it met the Pod's limit: {end:?}");
    assert_eq!((end.stop_cause(), end.exit_code), (StopCause::Exited, 0), "{end:?}");
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

/// Where there is not enough for all, who asked for more gets more.
#[tokio::test]
async fn the_part_of_the_processor_is_that_of_the_requests() {
    let Some(mut server) = limited().await else { return };
    let one_processor = "taskset -pc $(grep Cpus_allowed_list /proc/self/status | grep -o '[0-9]*' | head -n 1) $$ >/dev/null";
    let gate = server.work_dir().join("gate").display().to_string();
    // Both at the same time, however long each takes to start.
    let spin = format!(
        "{one_processor}; until [ -e {gate} ]; do sleep 0.02; done; end=$(cat {gate}); while [ $EPOCHSECONDS -lt $end ]; do :; done"
    );
    for (id, cpu) in [("little", "100m"), ("much", "900m")] {
        let mut request = script(id, &spin);
        request.resources = [("cpu".to_owned(), cpu.to_owned())].into();
        server.execute(request).await.expect("accepted");
        server.running(id).await;
    }
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a time").as_secs();
    std::fs::write(format!("{gate}-"), (now + 5).to_string()).expect("written");
    std::fs::rename(format!("{gate}-"), &gate).expect("at once");
    let mut used = async |id: &str| counted(&server.end(id).await, "cpu_user_seconds");
    let (little, much) = (used("little").await, used("much").await);
    println!("processor seconds: {little:.2} with 100m asked for, {much:.2} with 900m");
    assert!(much > little * 2.0, "{much} s and {little} s");
}

/// More than the Pod may use, or than there can be, is no reason to refuse a Run: what bounds the Pod bounds it.
#[tokio::test]
async fn limits_above_those_of_the_pod_are_the_pods() {
    let Some(mut server) = limited().await else { return };
    for (file, text) in [("cpu.cfs_quota_us", "50000"), ("cpu.max", "50000 100000")] {
        let pod = server.groups.at_depth(0).into_iter().find(|group| group.join(file).exists());
        if let Some(pod) = pod {
            std::fs::write(pod.join(file), text).expect("a limit of the Pod");
        }
    }
    for limits in [[("cpu", "4"), ("pids", "20")], [("cpu", "200m"), ("pids", "10M")]] {
        let end = run(&mut server, limits[0].1, "true", &limits).await;
        assert_eq!(end.state(), ExecutionState::Succeeded, "{end:?}");
    }
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

/// A Run that works in a part of its folder, as one with a repository does, may fill all of it.
#[tokio::test]
async fn all_of_a_runs_folder_counts_as_storage_however_it_is_hidden() {
    for args in [&[][..], &["--cgroup-parent=none"]] {
        let mut server = TestServer::start(args).await;
        let long = format!("for i in $(seq 30); do mkdir {0} && cd -P {0} || exit 9; done", "x".repeat(250));
        for (id, text) in [
            ("beside", "head -c 8M /dev/zero > ../beside".to_owned()),
            (
                "unreadable",
                "mkdir a && chmod 300 a && cd a && for i in 1 2; do head -c 4M /dev/zero > $i; done"
                    .to_owned(),
            ),
            ("far", format!("{long}; for i in 1 2; do head -c 4M /dev/zero > $i; done")),
            (
                "moved",
                "mkdir ../repo2; mv ../repo ../away; ln -s repo2 ../repo; head -c 8M /dev/zero > ../away/a"
                    .to_owned(),
            ),
        ] {
            let folder = server.work_dir().join(id).join("repo");
            std::fs::create_dir_all(&folder).expect("folder");
            let mut request =
                with(script(id, &format!("{text}; sleep 1000")), &[("ephemeral-storage", "6Mi")]);
            request.working_dir = folder.to_string_lossy().into_owned();
            server.execute(request).await.expect("accepted");
            let end = server.end(id).await;
            assert_eq!(end.stop_cause(), StopCause::StorageExceeded, "{id}: {end:?}");
            assert!(end.error_message.contains("limit of 6Mi"), "{id}: {}", end.error_message);
        }
        let deep = "for i in $(seq 200); do mkdir d && cd d; done; sleep 1000";
        let end = run_in(&mut server, script("deep", deep), &[("ephemeral-storage", "6Mi")]).await;
        assert_eq!(end.stop_cause(), StopCause::StorageExceeded, "{end:?}");
        assert!(end.error_message.contains("nested more than 128 deep"), "{}", end.error_message);
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

/// One whose Runs have a `/tmp` and a `/dev/shm` of their own; `None` with a printed reason where that cannot be.
async fn with_private_folders(args: &[&str]) -> Option<TestServer> {
    let mut server = TestServer::start_contained(args).await?;
    let mechanism = mechanism(&mut server, "files").await;
    if mechanism == "mount-namespace" {
        return Some(server);
    }
    println!("skipped: no private mounts here, only {mechanism}");
    None
}

/// A Run in a folder of its own.
async fn run_in(
    server: &mut TestServer,
    mut request: ExecuteRequest,
    limits: &[(&str, &str)],
) -> StatusResponse {
    let (id, folder) = (request.id.clone(), server.work_dir().join(&request.id));
    std::fs::create_dir(&folder).expect("folder");
    request.working_dir = folder.to_string_lossy().into_owned();
    server.execute(with(request, limits)).await.expect("accepted");
    server.end(&id).await
}

/// What a Run keeps in the folders that are its own counts, while it runs and when it has ended by itself.
#[tokio::test]
async fn private_folders_count_as_storage() {
    for args in [&[][..], &["--cgroup-parent=none"]] {
        let Some(mut server) = with_private_folders(args).await else { return };
        for (id, text) in [
            ("stays", "for i in $(seq 50); do head -c 4M /dev/zero > /tmp/$i; done; sleep 1000"),
            ("leaves", "head -c 8M /dev/zero > /dev/shm/a; true"),
            ("both", "for at in /tmp /dev/shm; do head -c 3M /dev/zero > $at/a; done"),
            ("one", "exec head -c 20M /dev/zero > /tmp/b"),
        ] {
            let end = run_in(&mut server, script(id, text), &[("ephemeral-storage", "4Mi")]).await;
            assert_eq!(end.stop_cause(), StopCause::StorageExceeded, "{id}: {end:?}");
            assert!(end.error_message.contains("limit of 4Mi"), "{id}: {}", end.error_message);
            let (peak, _) = figure(&end, "storage_peak_bytes").expect("peak");
            assert!(peak > f64::from(4 << 20) && peak < f64::from(16 << 20), "{id}: {peak}");
        }
        let few = script("few", "head -c 1M /dev/zero > /tmp/a; head -c 1M /dev/zero > /dev/shm/a");
        let end = run_in(&mut server, few, &[("ephemeral-storage", "4Mi")]).await;
        assert_eq!(end.state(), ExecutionState::Succeeded, "{end:?}");
        // As much as the limit on memory says, also beyond what a Run without one gets.
        let size = script("size", "df --output=size -B1M /tmp /dev/shm | tail -n 2");
        let end = run_in(&mut server, size, &[("memory", "3Gi")]).await;
        assert_eq!(end.stdout.split_whitespace().collect::<Vec<_>>(), ["3073", "3073"], "{end:?}");
    }
}

/// Nothing is stored of a file that the kernel did not let grow.
#[tokio::test]
async fn a_file_that_was_to_grow_too_large_is_named() {
    let mut server = TestServer::start(&[]).await;
    let text = "exec dd if=/dev/zero of=large bs=1 count=1 seek=100M";
    let end = run_in(&mut server, script("large", text), &[("ephemeral-storage", "4Mi")]).await;
    assert_eq!(end.stop_cause(), StopCause::StorageExceeded, "{end:?}");
    let words = "a file was to grow beyond the limit of 4Mi (4194304 bytes) on ephemeral storage; peak ";
    assert!(end.error_message.starts_with(words), "{}", end.error_message);
}

/// Where memory is policed, what lies in the private folders is memory, and what is mapped of it counts once.
#[tokio::test]
async fn private_folders_count_as_memory() {
    // With the server's id, which can start the probe wherever it was built.
    let args = ["--cgroup-parent=none", "--isolation=privileges=seccomp"];
    let Some(mut server) = with_private_folders(&args).await else { return };
    let limits = [("memory", "64Mi")];
    let fill = "head -c 300M /dev/zero > /tmp/a; head -c 200M /dev/zero > /dev/shm/a; true";
    for (id, text) in [("leaves", fill), ("stays", &format!("{fill}; sleep 1000"))] {
        let end = run_in(&mut server, script(id, text), &limits).await;
        assert_eq!(end.stop_cause(), StopCause::OutOfMemory, "{end:?}");
        assert!(end.error_message.contains("limit of 64Mi"), "{}", end.error_message);
    }
    let probe = example("probe").display().to_string();
    let end = run_in(&mut server, job("mapped", &[&probe, "map:/dev/shm/a"]), &limits).await;
    assert_eq!((end.state(), end.stdout.trim()), (ExecutionState::Succeeded, "map:/dev/shm/a ok"), "{end:?}");
    let more = job("more", &[&probe, "fill:/tmp/a", "map:/dev/shm/a", "pause:"]);
    let end = run_in(&mut server, more, &limits).await;
    assert_eq!(end.stop_cause(), StopCause::OutOfMemory, "{end:?}");
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
        if !held && level == "groups" {
            println!("skipped: operations on the disk are not held here: {}", limits.reason);
        }
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
    let headless = format!("exec {} headless", example("attack").display());
    let end = run(&mut server, "headless", &headless, &[("memory", "64Mi")]).await;
    assert_eq!(end.stop_cause(), StopCause::OutOfMemory, "{end:?}");
    let crowd = "for i in $(seq 40); do sleep 1000 & done; wait";
    let end = run(&mut server, "crowd", crowd, &[("pids", "16")]).await;
    assert_eq!(end.stop_cause(), StopCause::PidsExceeded, "{end:?}");
    // What this level cannot hold back it does not claim to: CPU.
    let spin = "while [ $SECONDS -lt 1 ]; do :; done";
    let end = run(&mut server, "spin", spin, &[("cpu", "200m")]).await;
    let cpu = figure(&end, "cpu_user_seconds").expect("cpu");
    assert_eq!((end.state(), cpu.1.as_str()), (ExecutionState::Succeeded, "rusage"));
}

/// At every level: the kernel drops pages of files when memory is wanted.
#[tokio::test]
async fn pages_of_files_are_nobodys_memory() {
    let (load, large) = (example("load"), example("scratch"));
    let size = std::fs::metadata(&large).expect("an example").len();
    assert!(size > 12 << 20, "{size} bytes");
    for args in [&["--cgroup-parent=none"][..], &[]] {
        let Some(mut server) = TestServer::start_contained(args).await else { return };
        mechanism(&mut server, "limits").await;
        let text = format!("sleep 2 | {} map {size} {}", load.display(), large.display());
        let end = run(&mut server, "reader", &text, &[("memory", "8Mi")]).await;
        assert_eq!(end.state(), ExecutionState::Succeeded, "{end:?}");
    }
}

/// What processes share counts once, also where the server may not look into those of another id by right.
#[tokio::test]
async fn shared_pages_count_once_in_a_container() {
    let Some(mut placed) = Placed::start(Rights::Container, &["--grace=1"], &[]).await else { return };
    assert_eq!((placed.mechanism("limits"), placed.mechanism("privileges")), ("policing", "own-uid"));
    let load = placed.program("load");
    for (id, amount, seconds, cause) in
        [("fits", 40, 4, StopCause::Exited), ("does-not", 80, 1000, StopCause::OutOfMemory)]
    {
        let text = format!("sleep {seconds} | {load} family {}", amount << 20);
        let mut request = with(script(id, &text), &[("memory", "64Mi")]);
        request.working_dir = placed.work(id);
        placed.server.execute(request).await.expect("accepted");
        let end = placed.server.end(id).await;
        assert_eq!(end.stop_cause(), cause, "{end:?}");
    }
    placed.end().await;
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

/// Also where a better one holds: each rung by itself ends what resists, and says what it is.
#[tokio::test]
async fn rungs_of_limits_and_kill_can_be_chosen() {
    let deaf = "setsid bash -c 'trap \"\" TERM HUP; while :; do sleep 0.05; done' marker-rung & grep -c run- /proc/self/cgroup; exit 4";
    for (flag, axis, wanted) in [
        ("kill=cgroup-v1-freezer", "kill", "cgroup-v1-freezer"),
        ("kill=subreaper", "kill", "subreaper"),
        ("limits=cgroup-v1", "limits", "cgroup-v1"),
        ("limits=policing", "limits", "policing"),
        ("limits=policing,kill=subreaper", "kill", "subreaper"),
    ] {
        let Some(mut server) = TestServer::start_contained(&[&format!("--isolation={flag}")]).await else {
            return;
        };
        let told = server.events.describe(DescribeRequest {}).await.expect("describe").into_inner();
        let axes = told.isolation.expect("isolation").axes;
        let found = axes.iter().find(|told| told.axis == axis).expect("told");
        println!("{flag}: {} ({})", found.mechanism, found.reason);
        let hard = found.level() == IsolationLevel::Hard;
        assert!(hard || found.reason.starts_with("cgroup-v2: not wanted: --isolation "), "{found:?}");
        // Where there is no version 1, that is the reason for what comes next.
        assert!(found.mechanism == wanted || found.reason.contains(&format!("; {wanted}: ")), "{found:?}");
        let end = run(&mut server, "deaf", deaf, &[]).await;
        assert_eq!((end.stop_cause(), end.exit_code), (StopCause::Exited, 4), "{end:?}");
        assert!(!end.usage.as_ref().expect("usage").incomplete, "nothing is left, and that is known");
        assert_eq!(common::marked("marker-rung"), [] as [i32; 0], "{flag}");
        assert_eq!(end.stdout.trim() == "0", flag == "limits=policing,kill=subreaper", "{flag}: {end:?}");
        if wanted == "policing" {
            let crowd = "for i in $(seq 40); do sleep 1000 & done; wait";
            let end = run(&mut server, "crowd", crowd, &[("pids", "16")]).await;
            assert_eq!(end.stop_cause(), StopCause::PidsExceeded, "{end:?}");
            assert!(end.error_message.contains("more processes wanted than the limit of 16"), "{end:?}");
        }
    }
}

/// No more groups than the Pod may make: one more Run is for another Pod, or for later.
#[tokio::test]
async fn a_pod_that_may_make_no_more_groups_hands_back() {
    let mut server = TestServer::start(&["--idle-supervisors=1"]).await;
    let pod =
        server.groups.at_depth(0).into_iter().find(|group| group.join("cgroup.max.descendants").exists());
    let Some(pod) = pod else {
        println!("skipped: no cgroup v2 tree that this test may write");
        return;
    };
    // The server's own, which may have one for itself, and one leaf ahead.
    let made = |server: &TestServer| {
        let below =
            |depth| server.groups.at_depth(depth).into_iter().filter(|path| path.starts_with(&pod)).count();
        below(1) + below(2)
    };
    eventually("a leaf is ready", || made(&server) >= 2).await;
    std::fs::write(pod.join("cgroup.max.descendants"), (made(&server) + 1).to_string()).expect("a cap");
    let wait = |id: &str| script(id, "sleep 1000");
    let mut taken = Vec::new();
    let refused = loop {
        let id = format!("r{}", taken.len());
        match server.execute(wait(&id)).await {
            Ok(()) => taken.push(id),
            Err(refused) => break refused,
        }
        assert!(taken.len() <= 2, "the cap holds");
    };
    assert_eq!(refused.code(), tonic::Code::ResourceExhausted, "{refused:?}");
    assert!(refused.message().contains("no more control groups"), "{refused:?}");
    assert_eq!(taken.len(), 2, "as many as there is room for");
    let again = format!("r{}", taken.len());
    let unknown = server.status(&again).await.expect_err("nothing is kept of it");
    assert_eq!(unknown.code(), tonic::Code::NotFound);
    server.healthy().await.expect("well");
    let cancel = CancelRequest { id: taken.remove(0), grace_seconds: 0, ..CancelRequest::default() };
    server.runtime.cancel(cancel).await.expect("cancels");
    server.end("r0").await;
    let deadline = std::time::Instant::now() + common::PATIENCE;
    while let Err(refused) = server.execute(wait(&again)).await {
        assert_eq!(refused.code(), tonic::Code::ResourceExhausted, "{refused:?}");
        assert!(std::time::Instant::now() < deadline, "the leaf of the ended one is removed: {refused:?}");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
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

/// A server as a container is started: in its group of version 2 from the beginning, and alone in it, by way of `through`, words of a
/// shell. `None`, with a printed reason, where there is no such group.
async fn handed(
    through: &str,
    prepare: impl FnOnce(&mut std::process::Command),
) -> Option<(TestServer, common::groups::Groups)> {
    let root = std::path::Path::new("/sys/fs/cgroup");
    let offered = std::fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
    if !offered.contains("memory") || !nix::unistd::geteuid().is_root() {
        println!("skipped: no cgroup v2 tree with controllers that this test may write");
        return None;
    }
    let dir = tempfile::tempdir().expect("tempdir");
    let groups = common::groups::Groups::of(dir.path());
    let home = root.join(common::groups::parent(dir.path()).strip_prefix("/").expect("absolute"));
    std::fs::create_dir(&home).expect("group");
    let inner = command(&example("shell"), dir.path(), &["--cgroup-parent=own"]);
    let enter = format!("echo $$ > {}/cgroup.procs && exec {through} \"$@\"", home.display());
    let mut outer = std::process::Command::new("bash");
    outer.args(["-c", &enter, "bash"]).arg(inner.get_program()).args(inner.get_args());
    prepare(&mut outer);
    let child = outer.stdin(std::process::Stdio::null()).spawn().expect("server starts");
    Some((TestServer::attach(child, dir).await, groups))
}

#[tokio::test]
async fn a_server_in_a_group_that_is_handed_to_it_makes_room_in_it() {
    let Some((mut server, groups)) = handed("", |_| ()).await else { return };
    assert_eq!(mechanism(&mut server, "limits").await, "cgroup-v2");
    let end = run(&mut server, "hog", HOG, &[("memory", "32Mi")]).await;
    assert_eq!(end.stop_cause(), StopCause::OutOfMemory, "{end:?}");
    let told = server.events.describe(DescribeRequest {}).await.expect("describe").into_inner();
    let levels = told.isolation.expect("isolation").axes.into_iter().map(|axis| axis.level());
    assert!(levels.take(2).all(|level| level != IsolationLevel::None));
    drop((server, groups));
}

/// As the server of a Pod whose control groups are writable: alone in a cgroup namespace, with its group mounted at the usual place, and
/// under a filter that knows no `clone3` (as `RuntimeDefault`), so that no Run is born in its group.
#[tokio::test]
async fn a_server_in_a_cgroup_namespace_of_its_own_limits_and_ends_its_runs() {
    use std::os::unix::process::CommandExt as _;
    let alone = "umount -l /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup && exec \"$@\"";
    let namespace = format!("unshare --cgroup --mount bash -c '{alone}' bash");
    let filter = without_clone3();
    let server = handed(&namespace, |server| {
        // SAFETY: only system calls.
        unsafe {
            server.pre_exec(move || seccompiler::apply_filter(&filter).map_err(std::io::Error::other));
        }
    });
    let Some((mut server, groups)) = server.await else { return };
    for axis in ["limits", "kill"] {
        assert_eq!(mechanism(&mut server, axis).await, "cgroup-v2");
    }
    let end = run(&mut server, "hog", HOG, &[("memory", "32Mi")]).await;
    assert_eq!(end.stop_cause(), StopCause::OutOfMemory, "{end:?}");
    let left = "setsid bash -c 'trap \"\" TERM HUP; while :; do sleep 0.05; done' marker-namespace & exit 3";
    let end = run(&mut server, "left", left, &[("pids", "16")]).await;
    assert_eq!((end.stop_cause(), end.exit_code), (StopCause::Exited, 3), "{end:?}");
    assert!(common::marked("marker-namespace").is_empty(), "nothing of it lives");
    assert!(counted(&end, "pids_peak") >= 2.0);
    drop((server, groups));
}

/// A filter that answers `clone3` with `ENOSYS` and lets everything else through.
fn without_clone3() -> seccompiler::BpfProgram {
    use seccompiler::{SeccompAction, SeccompFilter};
    let rules = [(nix::libc::SYS_clone3, Vec::new())].into();
    let unknown = SeccompAction::Errno(nix::libc::ENOSYS.cast_unsigned());
    let arch = std::env::consts::ARCH.try_into().expect("a known machine");
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, unknown, arch).expect("a filter");
    filter.try_into().expect("a program")
}
