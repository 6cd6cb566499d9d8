//! What keeps Runs apart, on the kernel of this machine: what a level claims is tried from inside and refused,
//! and what it does not claim is seen to pass.
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panic")]

mod common;

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use common::*;
use kruntimes_proto::v1::{DescribeRequest, ExecuteRequest, IsolationAxis, IsolationLevel, StatusResponse};

/// Fences by Landlock and one id for all, as in an ordinary Pod.
const POD: &str = "--isolation=files=landlock,privileges=seccomp";
/// As in a Pod that runs as root without namespaces.
const ROOT_POD: &str = "--isolation=files=landlock";
/// As the kernel without any of it.
const FLOOR: &str = "--isolation=files=directory,devices=variables,privileges=no-new-privs,network=shared";

/// A server whose Runs have folders of their own, with the probe in each.
struct Fenced {
    server: TestServer,
    axes: BTreeMap<String, IsolationAxis>,
}

impl Fenced {
    async fn start(args: &[&str]) -> Option<Self> {
        let mut server = TestServer::start_contained(args).await?;
        // Other ids must be able to pass, as in a Pod.
        std::fs::set_permissions(server.dir.path(), std::fs::Permissions::from_mode(0o755)).expect("mode");
        // The server looked when the folder was still closed.
        server.kill();
        server.start_again(args).await;
        let describe = server.events.describe(DescribeRequest {}).await.expect("describe").into_inner();
        let axes = describe.isolation.expect("isolation").axes;
        let axes = axes.into_iter().map(|axis| (axis.axis.clone(), axis)).collect();
        Some(Self { server, axes })
    }

    /// `None`, with the reason printed, where this place gives an axis by something else.
    async fn start_with(args: &[&str], wanted: &[(&str, &str)]) -> Option<Self> {
        let fenced = Self::start(args).await?;
        for (axis, mechanism) in wanted {
            let held = &fenced.axes[*axis];
            if held.mechanism != *mechanism {
                println!("skipped: {axis} is held by {} here: {}", held.mechanism, held.reason);
                return None;
            }
        }
        Some(fenced)
    }

    fn folder(&self, id: &str) -> PathBuf {
        self.server.work_dir().join(id)
    }

    fn prepare(&self, id: &str) -> PathBuf {
        let folder = self.folder(id);
        std::fs::create_dir(&folder).expect("folder");
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o770)).expect("mode");
        // By another process: a file that this one has open for writing could be inherited by a server that is
        // just being started, and then not be executed.
        let copied = Command::new("cp").arg(example("probe")).arg(&folder).status().expect("cp runs");
        assert!(copied.success());
        folder
    }

    fn request(&self, id: &str, attempts: &[String]) -> ExecuteRequest {
        let folder = self.prepare(id);
        let program = folder.join("probe").display().to_string();
        let args: Vec<&str> =
            [program.as_str()].into_iter().chain(attempts.iter().map(String::as_str)).collect();
        ExecuteRequest { working_dir: folder.display().to_string(), ..job(id, &args) }
    }

    /// Starts one that stays; answers its process as the others see it.
    async fn stay(&mut self, id: &str, attempts: &[&str]) -> i32 {
        let attempts: Vec<String> =
            attempts.iter().copied().chain(["status:NSpid", "pause:"]).map(String::from).collect();
        let request = self.request(id, &attempts);
        self.server.execute(request).await.expect("accepted");
        let status = self.server.until(id, |status| status.stdout.contains("status:NSpid")).await;
        let line = status.stdout.lines().find(|line| line.starts_with("status:NSpid")).expect("line");
        // Innermost last; the test's processes share the namespace of the server.
        line.split_whitespace().last().expect("pid").parse().expect("number")
    }

    /// What came of each attempt.
    async fn attempt(&mut self, id: &str, attempts: &[&str]) -> BTreeMap<String, String> {
        let attempts: Vec<String> = attempts.iter().map(ToString::to_string).collect();
        let request = self.request(id, &attempts);
        self.server.execute(request).await.expect("accepted");
        let status = self.server.end(id).await;
        assert_eq!(status.exit_code, 0, "{status:?}");
        answers(&status)
    }

    fn level(&self, axis: &str) -> IsolationLevel {
        self.axes[axis].level()
    }
}

fn answers(status: &StatusResponse) -> BTreeMap<String, String> {
    let pairs = status.stdout.lines().filter_map(|line| line.split_once(' '));
    pairs.map(|(what, answer)| (what.to_owned(), answer.to_owned())).collect()
}

/// Asserts each answer; `ok` stands for any that is no error.
fn expect(answers: &BTreeMap<String, String>, expected: &[(&str, &str)]) {
    for (attempt, wanted) in expected {
        let found = answers.get(*attempt).unwrap_or_else(|| panic!("{attempt} is not in {answers:?}"));
        let fits = found == wanted || (*wanted == "ok" && found.starts_with("ok "));
        assert!(fits, "{attempt}: {found:?}, not {wanted:?}");
    }
}

#[tokio::test]
async fn the_ladder_is_told() {
    let Some(fenced) = Fenced::start(&[]).await else { return };
    for axis in fenced.axes.values() {
        println!(
            "{:<11} {:<5} {:<16} {}",
            axis.axis,
            format!("{:?}", axis.level()),
            axis.mechanism,
            axis.reason
        );
        assert!(axis.level() == IsolationLevel::Hard || !axis.reason.is_empty(), "{axis:?}");
    }
}

#[tokio::test]
async fn calls_that_lead_out_are_refused_and_no_capability_is_left() {
    let Some(mut fenced) = Fenced::start_with(&[POD], &[("privileges", "seccomp")]).await else { return };
    let attempts =
        ["unshare:268435456", "mount:/tmp", "umount:/proc", "keyctl:", "bpf:", "userfaultfd:", "io_uring:"];
    let all = [&attempts[..], &["clone3:", "unixpair:", "mknod:node"], &["status:CapBnd", "status:CapEff"]]
        .concat();
    let answers = fenced.attempt("a", &[&all[..], &["status:NoNewPrivs", "status:Seccomp"]].concat()).await;
    for attempt in attempts {
        expect(&answers, &[(attempt, "EPERM")]);
    }
    let nothing = "0000000000000000";
    expect(&answers, &[("clone3:", "ENOSYS"), ("unixpair:", "ok"), ("status:CapEff", nothing)]);
    expect(&answers, &[("status:CapBnd", nothing), ("status:NoNewPrivs", "1"), ("status:Seccomp", "2")]);
    assert!(["EPERM", "EACCES"].contains(&answers["mknod:node"].as_str()), "{answers:?}");
}

#[tokio::test]
async fn without_the_filter_the_same_calls_are_not_stopped() {
    let Some(mut fenced) = Fenced::start(&[FLOOR]).await else { return };
    assert_eq!(fenced.axes["privileges"].mechanism, "no-new-privs");
    let answers = fenced.attempt("a", &["clone3:", "status:NoNewPrivs", "status:Seccomp", "bpf:"]).await;
    expect(&answers, &[("clone3:", "EINVAL"), ("status:NoNewPrivs", "1")]);
    assert_ne!(answers["status:Seccomp"], "2", "unless the container has its own");
}

#[tokio::test]
async fn each_run_has_an_id_of_its_own_and_its_folder_comes_back() {
    let wanted = [("privileges", "own-uid")];
    let Some(mut fenced) = Fenced::start_with(&[ROOT_POD], &wanted).await else { return };
    let mut ids = Vec::new();
    for id in ["a", "b"] {
        let attempts = ["status:Uid", "status:Gid", "status:Groups", "write:made", "setuid:0", "env:HOME"];
        let answers = fenced.attempt(id, &attempts).await;
        let home = fenced.folder(id).display().to_string();
        expect(
            &answers,
            &[("write:made", "ok"), ("setuid:0", "EPERM"), ("env:HOME", &home), ("status:Groups", "")],
        );
        let id: Vec<u32> = answers["status:Uid"].split(' ').map(|id| id.parse().expect("id")).collect();
        assert!(id.iter().all(|one| *one == id[0] && *one >= 33_000), "{id:?}");
        assert_eq!(answers["status:Gid"], answers["status:Uid"]);
        ids.push(id[0]);
    }
    assert_ne!(ids[0], ids[1]);
    use std::os::unix::fs::MetadataExt as _;
    let server = std::fs::metadata(fenced.server.work_dir()).expect("metadata").uid();
    for path in ["a", "a/made", "a/probe"] {
        let metadata = std::fs::metadata(fenced.folder(path)).expect("metadata");
        assert_eq!(metadata.uid(), server, "{path}");
    }
    assert_eq!(std::fs::metadata(fenced.folder("a")).expect("metadata").mode() & 0o777, 0o770);
}

#[tokio::test]
async fn what_a_killed_server_left_comes_back_with_the_next() {
    let wanted = [("privileges", "own-uid")];
    let Some(mut fenced) = Fenced::start_with(&[ROOT_POD], &wanted).await else { return };
    fenced.stay("a", &["write:made"]).await;
    use std::os::unix::fs::MetadataExt as _;
    let owner = |path: PathBuf| std::fs::metadata(path).expect("metadata").uid();
    assert!(owner(fenced.folder("a/made")) >= 33_000);
    fenced.server.kill();
    fenced.server.start_again(&[ROOT_POD]).await;
    assert_eq!(owner(fenced.folder("a/made")), owner(fenced.server.work_dir()));
}

/// What B can do to A, its neighbour, and to the kit.
async fn hurt(fenced: &mut Fenced) -> BTreeMap<String, String> {
    let shared = format!("/dev/shm/fences-test-{}", fenced.server.pid());
    let neighbour = fenced.stay("a", &["write:secret", &format!("write:{shared}")]).await;
    let work = fenced.server.work_dir().display().to_string();
    let socket = fenced.server.socket_dir().join("server.sock").display().to_string();
    let attempts = [
        ("look", format!("look:{work}/a/secret")),
        ("read", format!("read:{work}/a/secret")),
        ("write", format!("write:{work}/a/secret")),
        ("list", format!("list:{work}")),
        ("socket", format!("connect:{socket}")),
        ("environ", format!("read:/proc/{neighbour}/environ")),
        ("memory", format!("append:/proc/{neighbour}/mem")),
        ("signal", format!("signal:{neighbour}")),
        ("ptrace", format!("ptrace:{neighbour}")),
        ("kit", "signal:1".to_owned()),
        ("tmp", "write:/tmp/fences-probe".to_owned()),
        ("shared memory", format!("read:{shared}")),
        ("image", "read:/etc/passwd".to_owned()),
        ("image changed", "append:/etc/passwd".to_owned()),
        ("own", "write:own".to_owned()),
        ("groups", "write:/sys/fs/cgroup/cgroup.procs".to_owned()),
    ];
    let list: Vec<&str> = attempts.iter().map(|(_, attempt)| attempt.as_str()).collect();
    let answers = fenced.attempt("b", &list).await;
    let _ = std::fs::remove_file(&shared);
    let _ = std::fs::remove_file("/tmp/fences-probe");
    attempts.into_iter().map(|(name, attempt)| (name.to_owned(), answers[&attempt].clone())).collect()
}

#[tokio::test]
async fn with_private_mounts_nothing_of_a_neighbour_is_reached() {
    let wanted = [("files", "mount-namespace")];
    let Some(mut fenced) = Fenced::start_with(&[], &wanted).await else { return };
    assert_eq!(fenced.level("files"), IsolationLevel::Hard);
    let seen = hurt(&mut fenced).await;
    expect(&seen, &[("look", "ENOENT"), ("read", "ENOENT"), ("list", "ok 1"), ("socket", "ENOENT")]);
    expect(
        &seen,
        &[("tmp", "ok"), ("shared memory", "ENOENT"), ("image", "ok"), ("image changed", "EACCES")],
    );
    expect(&seen, &[("environ", "EACCES"), ("memory", "EACCES"), ("ptrace", "EPERM"), ("own", "ok")]);
    assert!(!std::path::Path::new("/tmp/fences-probe").exists(), "its /tmp is its own");
}

#[tokio::test]
async fn landlock_alone_stops_reading_and_writing_but_not_looking() {
    let wanted = [("files", "landlock"), ("privileges", "seccomp")];
    let Some(mut fenced) = Fenced::start_with(&[POD], &wanted).await else { return };
    assert_eq!(fenced.level("files"), IsolationLevel::Soft);
    let seen = hurt(&mut fenced).await;
    expect(&seen, &[("read", "EACCES"), ("write", "EACCES"), ("list", "EACCES"), ("tmp", "EACCES")]);
    expect(
        &seen,
        &[("environ", "EACCES"), ("memory", "EACCES"), ("image", "ok"), ("image changed", "EACCES")],
    );
    expect(&seen, &[("own", "ok"), ("ptrace", "EPERM"), ("groups", "EACCES")]);
    // Not stopped at this level, and told so.
    expect(&seen, &[("look", "ok"), ("shared memory", "ENOENT")]);
    let reason = &fenced.axes["files"].reason;
    assert!(reason.contains("Runs have no /dev/shm"), "{reason}");
    if seen["socket"] == "ok" {
        assert!(reason.contains("socket can be connected to"), "{reason}");
    }
    if seen["signal"] == "ok" {
        assert!(reason.contains("can be signalled"), "{reason}");
    }
}

#[tokio::test]
async fn ids_of_their_own_close_what_landlock_leaves_open() {
    let wanted = [("files", "landlock"), ("privileges", "own-uid")];
    let Some(mut fenced) = Fenced::start_with(&[ROOT_POD], &wanted).await else { return };
    assert_eq!(fenced.level("files"), IsolationLevel::Hard);
    let seen = hurt(&mut fenced).await;
    expect(&seen, &[("look", "EACCES"), ("read", "EACCES"), ("write", "EACCES"), ("list", "EACCES")]);
    expect(&seen, &[("socket", "EACCES"), ("signal", "EPERM"), ("kit", "EPERM"), ("ptrace", "EPERM")]);
    expect(&seen, &[("environ", "EACCES"), ("memory", "EACCES"), ("tmp", "EACCES"), ("own", "ok")]);
    // By the neighbour's own choice of a mode; what it left goes with it.
    expect(&seen, &[("shared memory", "ok")]);
}

/// A key of System V objects that nobody else uses.
const KEY: &str = "1263686964";

/// Two Runs with the same id, one after the other: nothing of the first is within reach of the second, also when the first
/// went with its server.
#[tokio::test]
async fn an_id_comes_back_with_nothing_of_its_run() {
    let wanted = [("files", "landlock"), ("privileges", "own-uid")];
    let args = [ROOT_POD, "--run-ids=33000-33000"];
    let Some(mut fenced) = Fenced::start_with(&args, &wanted).await else { return };
    let shared = format!("/dev/shm/fences-id-{}", std::process::id());
    for (crash, first, second) in [(false, "a", "b"), (true, "c", "d")] {
        let left = fenced.folder(first).join("made").display().to_string();
        let (write, make) = (format!("write:{shared}"), "write:made".to_owned());
        if crash {
            fenced.stay(first, &["status:Uid", &write, &make]).await;
            assert!(std::path::Path::new(&shared).exists() && std::path::Path::new(&left).exists());
            let again = fenced.request("refused", &[]);
            let busy = fenced.server.execute(again).await.expect_err("its id is in use");
            assert_eq!(busy.code(), tonic::Code::ResourceExhausted);
            fenced.server.kill();
            fenced.server.start_again(&args).await;
        } else {
            let seen = fenced.attempt(first, &["status:Uid", &write, &make]).await;
            expect(&seen, &[("status:Uid", "33000 33000 33000 33000"), (&write, "ok"), (&make, "ok")]);
        }
        let (shm, file) = (format!("read:{shared}"), format!("read:{left}"));
        let seen = fenced.attempt(second, &["status:Uid", &shm, &file]).await;
        expect(&seen, &[("status:Uid", "33000 33000 33000 33000"), (&shm, "ENOENT"), (&file, "EACCES")]);
    }
}

/// What a Run makes that could outlive it where there is no namespace for it: refused, or gone with the Run.
#[tokio::test]
async fn nothing_lasting_is_left_for_others() {
    let lasting = ["shm", "sem", "msg"].map(|kind| format!("{kind}:{KEY}"));
    let shared = format!("/dev/shm/fences-left-{}", std::process::id());
    let (write, read) = (format!("write:{shared}"), format!("read:{shared}"));
    let mut attempts: Vec<&str> = lasting.iter().map(String::as_str).collect();
    attempts.extend(["mq:fences-left", &write]);
    for (level, privileges, memory) in [(POD, "seccomp", "EACCES"), (ROOT_POD, "own-uid", "ok")] {
        let wanted = [("files", "landlock"), ("privileges", privileges)];
        let Some(mut fenced) = Fenced::start_with(&[level], &wanted).await else { continue };
        let seen = fenced.attempt("a", &attempts).await;
        for attempt in &attempts[..4] {
            expect(&seen, &[(attempt, "ENOSYS")]);
        }
        expect(&seen, &[(&write, memory)]);
        assert!(!std::path::Path::new(&shared).exists(), "it is gone with its Run");
    }
    // A volume that its Runtime's author puts there is everybody's.
    let given = "--shared-path=/dev/shm";
    if let Some(mut fenced) = Fenced::start_with(&[POD, given], &[("files", "landlock")]).await {
        expect(&fenced.attempt("a", &[&write]).await, &[(&write, "ok")]);
        std::fs::remove_file(&shared).expect("it is there");
        let reason = &fenced.axes["files"].reason;
        assert!(!reason.contains("Runs have no") && reason.contains("volumes: /dev/shm"), "{reason}");
    }
    let Some(mut fenced) = Fenced::start_with(&[], &[("files", "mount-namespace")]).await else { return };
    let seen = fenced.attempt("a", &attempts).await;
    for attempt in attempts.iter().filter(|attempt| !attempt.starts_with("mq:")) {
        expect(&seen, &[(attempt, "ok")]);
    }
    // Landlock looks at their making as at that of a file.
    expect(&seen, &[("mq:fences-left", "EACCES")]);
    let find = format!("shm-find:{KEY}");
    expect(&fenced.attempt("b", &[&find, &read]).await, &[(&find, "ENOENT"), (&read, "ENOENT")]);
}

/// Where processes are only looked at now and then, the kernel holds what may come between two looks.
#[tokio::test]
async fn an_id_of_its_own_bounds_processes_between_two_looks() {
    let args = ["--cgroup-parent=none", ROOT_POD];
    let wanted = [("limits", "policing"), ("privileges", "own-uid")];
    let Some(mut fenced) = Fenced::start_with(&args, &wanted).await else { return };
    let reason = &fenced.axes["limits"].reason;
    assert!(reason.contains("the kernel holds processes at twice their limit and 64"), "{reason}");
    let mut request = fenced.request("bomb", &["forks:600".into(), "pause:".into()]);
    request.limits = [("pids".to_owned(), "16".to_owned())].into();
    fenced.server.execute(request).await.expect("accepted");
    let end = fenced.server.end("bomb").await;
    assert_eq!(end.stop_cause(), kruntimes_proto::v1::StopCause::PidsExceeded, "{end:?}");
    // Unless it was ended before it could tell.
    let forked = answers(&end).get("forks:600").map(|told| told.trim_start_matches("ok ").to_owned());
    println!("forked {forked:?}");
    assert!(forked.is_none_or(|told| told.parse::<u32>().expect("a number") < 16 * 2 + 64), "{end:?}");
}

#[tokio::test]
async fn on_the_floor_nothing_is_claimed_and_nothing_stopped() {
    let Some(mut fenced) = Fenced::start(&[FLOOR]).await else { return };
    for axis in ["files", "devices", "network"] {
        assert_eq!(fenced.level(axis), IsolationLevel::None, "{axis}");
    }
    let seen = hurt(&mut fenced).await;
    expect(&seen, &[("look", "ok"), ("read", "ok"), ("write", "ok"), ("list", "ok"), ("tmp", "ok")]);
    expect(&seen, &[("shared memory", "ok"), ("socket", "ok"), ("signal", "ok"), ("kit", "ok")]);
}

/// A device of the test's own in `/dev`, which is not among the plain ones. Opening it takes no capability and does nothing.
struct Node {
    path: String,
    mode: u32,
}

impl Node {
    /// Drivers that let everybody open their device whom its mode lets.
    const OPEN: [&str; 3] = ["userfaultfd", "vga_arbiter", "autofs"];

    /// `None`, with the reason printed, where this place has no such device.
    fn make(mode: u32) -> Option<Self> {
        use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let Some(minor) = Self::minor() else {
            println!("skipped: none of the devices {:?} is here", Self::OPEN);
            return None;
        };
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let node = Self { path: format!("/dev/kruntimes-test-{}-{number}", std::process::id()), mode };
        // All of these are `misc`.
        let device = makedev(10, minor);
        if let Err(error) = mknodat(CWD, &node.path, FileType::CharacterDevice, Mode::empty(), device) {
            println!("skipped: no device can be made in /dev: {error}");
            return None;
        }
        std::fs::set_permissions(&node.path, std::fs::Permissions::from_mode(mode)).expect("mode");
        if let Err(error) = std::fs::File::open(&node.path) {
            println!("skipped: no device can be opened here: {error}");
            return None;
        }
        Some(node)
    }

    fn minor() -> Option<u32> {
        let misc = std::fs::read_to_string("/proc/misc").ok()?;
        let known = |name: &&str| {
            let mut lines = misc.lines().filter_map(|line| line.trim().split_once(' '));
            lines.find_map(|(minor, driver)| if driver == *name { minor.parse().ok() } else { None })
        };
        Self::OPEN.iter().find_map(known)
    }

    fn attempt(&self) -> String {
        format!("device:{}", self.path)
    }

    fn owner(&self) -> u32 {
        use std::os::unix::fs::MetadataExt as _;
        std::fs::symlink_metadata(&self.path).expect("metadata").uid()
    }

    /// It is as it was made.
    fn is_as_before(&self) {
        use std::os::unix::fs::MetadataExt as _;
        let metadata = std::fs::symlink_metadata(&self.path).expect("metadata");
        assert_eq!((metadata.uid(), metadata.gid(), metadata.mode() & 0o7777), (0, 0, self.mode));
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// The device is one that every Run could open if nothing but its mode stood before it, as those without a fence show.
#[tokio::test]
async fn devices_but_the_plain_ones_are_closed_at_the_level_that_says_so() {
    let Some(node) = Node::make(0o666) else { return };
    let device = node.attempt();
    let plain = ["device:/dev/null", "device:/dev/zero", "device:/dev/full", "list:/dev"];
    let attempts = [&plain[..], &[&device]].concat();
    for (mechanism, refused) in [("variables", "ok"), ("landlock", "EACCES"), ("cgroup", "EPERM")] {
        // The last as on a kernel without Landlock.
        let args = format!("{POD},devices={mechanism}");
        let Some(mut fenced) = Fenced::start_with(&[&args], &[("devices", mechanism)]).await else {
            continue;
        };
        println!("{mechanism}: {:?} {}", fenced.level("devices"), fenced.axes["devices"].reason);
        let seen = fenced.attempt("a", &attempts).await;
        expect(&seen, &plain.map(|attempt| (attempt, "ok")));
        expect(&seen, &[(&device, refused)]);
        if mechanism == "cgroup" {
            expect(&fenced.attempt("b", &["device:/dev/ptmx"]).await, &[("device:/dev/ptmx", "ok")]);
        }
    }
}

impl Fenced {
    /// Starts one that leases the device, opens it, and keeps it until [`Self::let_go`].
    async fn hold(&mut self, id: &str, device: &str) -> BTreeMap<String, String> {
        let request = self.request(id, &[device.to_owned(), "await:go".to_owned()]);
        let resources = [(DEVICE.to_owned(), "1".to_owned())].into();
        self.server.execute(ExecuteRequest { resources, ..request }).await.expect("accepted");
        answers(&self.server.until(id, |status| status.stdout.contains(device)).await)
    }

    async fn let_go(&mut self, id: &str) {
        std::fs::write(self.folder(id).join("go"), "").expect("file");
        let status = self.server.end(id).await;
        assert_eq!(status.exit_code, 0, "{status:?}");
    }
}

const DEVICE: &str = "example.com/device";

/// One opens the device that it leased while another, which leased none, cannot; afterwards nobody can, until it is leased again.
async fn leased_by_one(isolation: &str, wanted: &[(&str, &str)], mode: u32, others: &str) {
    let Some(node) = Node::make(mode) else { return };
    let flag = format!(
        r#"--resources=[{{"name": "runs", "kind": "Counted", "amount": "4"}},
            {{"name": "{DEVICE}", "kind": "Indexed", "amount": "1", "devices": ["{}"]}}]"#,
        node.path
    );
    let Some(mut fenced) = Fenced::start_with(&[isolation, &flag], wanted).await else { return };
    let own_ids = fenced.axes["privileges"].mechanism == "own-uid";
    let device = node.attempt();
    let mut seen = Vec::new();
    for (holder, beside, after) in [("a", "b", "c"), ("d", "e", "f")] {
        let held = fenced.hold(holder, &device).await;
        assert_eq!(node.owner() >= 33_000, own_ids, "whose it is while it is held");
        let neighbour = fenced.attempt(beside, &[&device]).await;
        fenced.let_go(holder).await;
        node.is_as_before();
        let later = fenced.attempt(after, &[&device]).await;
        expect(&held, &[(&device, "ok")]);
        expect(&neighbour, &[(&device, others)]);
        expect(&later, &[(&device, others)]);
        seen.push([&held, &neighbour, &later].map(|answers| answers[&device].clone()));
    }
    println!("{isolation} {mode:o}: holder, neighbour, later: {seen:?}");
}

#[tokio::test]
async fn a_leased_device_is_its_holders_alone_with_one_id_for_all() {
    let wanted = [("devices", "landlock"), ("privileges", "seccomp")];
    leased_by_one(POD, &wanted, 0o600, "EACCES").await;
    // Nothing but the fence keeps the others away.
    let open = [("devices", "variables"), ("privileges", "seccomp")];
    leased_by_one(&format!("{POD},devices=variables"), &open, 0o600, "ok").await;
}

#[tokio::test]
async fn a_leased_device_is_its_holders_alone_with_ids_of_their_own() {
    let wanted = [("devices", "landlock"), ("privileges", "own-uid")];
    // The holder has it by its id where the mode is narrow; the others are kept away by the fence where it is wide.
    for mode in [0o600, 0o666] {
        leased_by_one("--isolation=devices=landlock", &wanted, mode, "EACCES").await;
    }
    leased_by_one(ROOT_POD, &wanted, 0o666, "EACCES").await;
    let open = [("devices", "variables"), ("privileges", "own-uid")];
    leased_by_one("--isolation=devices=variables", &open, 0o666, "ok").await;
}

#[tokio::test]
async fn a_leased_device_is_its_holders_alone_by_the_filter_of_a_group() {
    for (level, privileges, mode) in [(POD, "seccomp", 0o600), (ROOT_POD, "own-uid", 0o666)] {
        let wanted = [("devices", "cgroup"), ("privileges", privileges)];
        leased_by_one(&format!("{level},devices=cgroup"), &wanted, mode, "EPERM").await;
    }
}

#[tokio::test]
async fn without_a_network_nothing_is_reached_at_each_level() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("listens");
    let address = listener.local_addr().expect("address").to_string();
    let (tcp, udp) = (format!("tcp:{address}"), format!("udp:{address}"));
    let attempts = [tcp.as_str(), udp.as_str(), "unixpair:", "read:/proc/net/dev"];
    let none = "--run-network=none";
    for (limit, mechanism) in
        [("namespace", "namespace"), ("seccomp", "seccomp"), ("landlock-tcp", "landlock-tcp")]
    {
        let limit = format!("--isolation=network={limit}");
        let Some(mut fenced) = Fenced::start_with(&[none, &limit], &[("network", mechanism)]).await else {
            continue;
        };
        let seen = fenced.attempt("a", &attempts).await;
        expect(&seen, &[("unixpair:", "ok")]);
        match mechanism {
            "namespace" => {
                assert_eq!(fenced.level("network"), IsolationLevel::Hard);
                // Its own loopback, where nobody listens.
                expect(&seen, &[(&tcp, "ECONNREFUSED"), (&udp, "ok")]);
                assert!(!seen["read:/proc/net/dev"].contains("eth"), "{seen:?}");
            }
            "seccomp" => expect(&seen, &[(&tcp, "EPERM"), (&udp, "EPERM")]),
            // TCP only, as the ladder says.
            _ => expect(&seen, &[(&tcp, "EACCES"), (&udp, "ok")]),
        }
    }
    let Some(mut shared) = Fenced::start(&[]).await else { return };
    assert_eq!(shared.level("network"), IsolationLevel::None);
    expect(&shared.attempt("a", &attempts).await, &[(&tcp, "ok"), (&udp, "ok")]);
}

#[tokio::test]
async fn shared_paths_may_be_written_and_are_named() {
    let shared = tempfile::tempdir().expect("tempdir");
    std::fs::set_permissions(shared.path(), std::fs::Permissions::from_mode(0o777)).expect("mode");
    let flag = format!("--shared-path={}", shared.path().display());
    let attempt = format!("write:{}/file", shared.path().display());
    for level in ["files=mount-namespace", "files=landlock"] {
        let level = format!("--isolation={level}");
        let Some(mut fenced) = Fenced::start(&[&level, &flag]).await else { return };
        expect(&fenced.attempt("a", &[&attempt]).await, &[(&attempt, "ok")]);
        assert!(shared.path().join("file").exists());
        std::fs::remove_file(shared.path().join("file")).expect("removes");
        let reason = &fenced.axes["files"].reason;
        assert!(reason.contains(&shared.path().display().to_string()), "{reason}");
    }
}

#[tokio::test]
async fn scripts_work_as_before_within_their_fences() {
    for level in [&[][..], &[ROOT_POD], &[POD]] {
        let Some(mut fenced) = Fenced::start(level).await else { return };
        let folder = fenced.prepare("a");
        let text = "set -e; f=$(mktemp); echo a > $f; cat < $f > /dev/stdout; cat <<< b | tee /dev/stderr; \
                    mkdir -p x/y; mv x/y z; echo 'echo c' > run; chmod +x run; ./run; ls /usr > /dev/null; \
                    echo d > /dev/null; head -c 4 /dev/urandom | wc -c; ps > /dev/null";
        let request = ExecuteRequest { working_dir: folder.display().to_string(), ..script("a", text) };
        fenced.server.execute(request).await.expect("accepted");
        let status = fenced.server.end("a").await;
        assert_eq!((status.exit_code, status.stdout.as_str()), (0, "a\nb\nc\n4\n"), "{level:?}: {status:?}");
        assert_eq!(status.stderr, "b\n");
    }
}
