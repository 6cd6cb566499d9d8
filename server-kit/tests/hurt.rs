//! Hostile Runs beside honest ones: what a level claims to stop is tried and stopped, what it does not claim is tried and
//! works, and in a mixture of everything that is stopped or harmless no neighbour is hurt.
//!
//! `KRUNTIMES_HURT_TRIALS=1000` sets the number of trials of the mixture; `--nocapture` shows the tables.
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panic")]

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use common::place::{Placed, Rights};
use common::*;
use kruntimes_proto::v1::runtime_client::RuntimeClient;
use kruntimes_proto::v1::{
    CancelRequest, ExecuteRequest, ExecutionState, ForgetRequest, IsolationLevel, StatusRequest,
    StatusResponse, StopCause,
};

/// What a hostile Run may use.
const LIMITS: &[(&str, &str)] =
    &[("memory", "64Mi"), ("pids", "24"), ("cpu", "250m"), ("ephemeral-storage", "16Mi")];
/// What an honest one has: its own limit on the processor must not be what holds it up.
const HONEST: &[(&str, &str)] =
    &[("memory", "64Mi"), ("pids", "24"), ("cpu", "1"), ("ephemeral-storage", "16Mi")];

/// One thing to try.
#[derive(Clone, Copy, Debug)]
struct Attack {
    name: &'static str,
    /// The axis that speaks about it.
    axis: &'static str,
    against: Against,
    /// How the Run ends where its limit is enforced.
    cause: StopCause,
}

/// What the attack is given to work on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Against {
    Nothing,
    Victim,
    Workspace,
    Kit,
    Canary,
}

const fn attack(name: &'static str, axis: &'static str, against: Against) -> Attack {
    Attack { name, axis, against, cause: StopCause::Exited }
}

const fn breach(name: &'static str, cause: StopCause) -> Attack {
    Attack { name, axis: "limits", against: Against::Nothing, cause }
}

const ATTACKS: &[Attack] = &[
    breach("memory", StopCause::OutOfMemory),
    breach("bomb", StopCause::PidsExceeded),
    breach("disk", StopCause::StorageExceeded),
    breach("tmp-filler", StopCause::StorageExceeded),
    breach("shm-filler", StopCause::StorageExceeded),
    breach("cpu", StopCause::Exited),
    attack("signal", "privileges", Against::Victim),
    attack("trace", "privileges", Against::Victim),
    attack("limit", "privileges", Against::Victim),
    attack("read-memory", "privileges", Against::Victim),
    attack("read-environment", "privileges", Against::Victim),
    attack("io-uring", "privileges", Against::Nothing),
    attack("read-workspace", "files", Against::Workspace),
    attack("connect", "files", Against::Kit),
];

/// Hurts nobody at any level: the kit itself must stand it.
const HARMLESS: &[Attack] = &[
    attack("descriptors", "limits", Against::Nothing),
    attack("daemon", "kill", Against::Victim),
    attack("links", "files", Against::Canary),
];

/// Where signals are refused, all of them at everything in sight.
const STORM: Attack = attack("storm", "privileges", Against::Nothing);

/// How an attack ended.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    /// It did not get what it wanted.
    stopped: bool,
    cause: StopCause,
}

/// What the ladder says about it, by level, mechanism and the weaknesses that it tells: stopped, or not.
fn claim(placed: &Placed, attack: &Attack) -> bool {
    if attack.name.ends_with("-filler") {
        // Folders of its own have a size, and are counted; the container's are closed, or have no bound.
        return placed.mechanism("files") != "directory";
    }
    if placed.level(attack.axis) == IsolationLevel::Hard {
        return true;
    }
    let told = |axis, words| placed.axis(axis).reason.contains(words);
    let landlock = matches!(placed.mechanism("files"), "landlock" | "mount-namespace");
    let ids = placed.mechanism("privileges") == "own-uid";
    let filter = placed.mechanism("privileges") != "no-new-privs";
    match attack.name {
        // Held by the kernel, or seen by who looks now and then: they stay until they are ended.
        "memory" | "bomb" | "disk" => true,
        "cpu" => placed.mechanism("limits").starts_with("cgroup"),
        "io-uring" => filter,
        "limit" => filter || ids,
        "trace" => filter || landlock || ids,
        "signal" => ids || (landlock && !told("files", "can be signalled")),
        "read-memory" | "read-environment" | "read-workspace" => ids || landlock,
        "connect" => !told("files", "can be connected to"),
        other => panic!("nothing is known about {other}"),
    }
}

/// Whether this machine refuses it to everybody, for instance because it is too busy: then no level can be seen to let it
/// pass.
fn refused_by_the_machine(hand: &Hand, attack: &Attack) -> bool {
    matches!(attack.name, "io-uring" | "cpu") && {
        let said = std::process::Command::new(&hand.program).arg(attack.name).output().expect("runs");
        String::from_utf8_lossy(&said.stdout).starts_with("refused: ")
    }
}

/// A client of its own, with what the Runs are given.
#[derive(Clone)]
struct Hand {
    runtime: RuntimeClient<Proved>,
    program: String,
    work: std::path::PathBuf,
    kit: String,
    canary: String,
    /// By which processes of this place are found.
    marker: String,
}

impl Hand {
    fn new(placed: &Placed, canary: &Path) -> Self {
        Self {
            runtime: placed.server.runtime.clone(),
            program: placed.program("attack"),
            work: placed.server.work_dir(),
            kit: placed.server.socket_dir().display().to_string(),
            canary: canary.display().to_string(),
            marker: format!("hurt{}", canary.file_name().expect("a name").display()),
        }
    }

    fn request(&self, placed: &Placed, id: &str, words: &[&str], limits: &[(&str, &str)]) -> ExecuteRequest {
        let mut request = job(id, &[&[self.program.as_str()], words].concat());
        request.working_dir = placed.work(id);
        request.limits =
            limits.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        request.env.insert("SECRET".into(), "of the environment".into());
        request
    }

    /// Starts an attack; the victim's and its own folders are those of these ids.
    async fn start(&mut self, placed: &Placed, id: &str, attack: &Attack) {
        let victim = self.work.join("victim").display().to_string();
        let word = match attack.against {
            Against::Nothing => "",
            Against::Victim => &self.marker,
            Against::Workspace => &victim,
            Against::Kit => &self.kit,
            Against::Canary => &self.canary,
        };
        let request = self.request(placed, id, &[attack.name, word], LIMITS);
        self.runtime.execute(request).await.unwrap_or_else(|error| panic!("{}: {error}", attack.name));
    }

    async fn end(&mut self, id: &str) -> StatusResponse {
        let deadline = std::time::Instant::now() + PATIENCE * 5;
        loop {
            let request = StatusRequest { id: id.into(), ..StatusRequest::default() };
            let status = self.runtime.status(request).await.expect("the server answers").into_inner();
            if matches!(status.state(), ExecutionState::Succeeded | ExecutionState::Failed) {
                let request = ForgetRequest { id: id.into(), ..ForgetRequest::default() };
                self.runtime.forget(request).await.expect("forgets");
                clear(&self.work.join(id));
                return status;
            }
            assert!(std::time::Instant::now() < deadline, "{id} has not ended: {:?}", status.state());
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    }

    /// Starts an honest Run and gives the time of the call.
    async fn begin_neighbour(&mut self, placed: &Placed, id: &str) -> i64 {
        let request = self.request(placed, id, &["neighbour"], HONEST);
        let begin = now();
        self.runtime.execute(request).await.expect("an honest Run is taken");
        begin
    }

    /// The end of an honest Run that began then: checks that it is right, and gives the time that it took in microseconds.
    async fn end_neighbour(&mut self, id: &str, begin: i64) -> i64 {
        let status = self.end(id).await;
        assert_eq!(
            (status.stop_cause(), status.exit_code, status.stdout.as_str()),
            (StopCause::Exited, 0, "done: f652fa43a6562325\n"),
            "{id} was hurt: {} {}",
            status.error_message,
            status.stderr
        );
        status.finished_at - begin
    }

    async fn neighbour(&mut self, placed: &Placed, id: &str) -> i64 {
        let begin = self.begin_neighbour(placed, id).await;
        self.end_neighbour(id, begin).await
    }

    /// Something worth attacking, which is there when this returns.
    async fn begin_victim(&mut self, placed: &Placed) {
        let request = self.request(placed, "victim", &["victim", &self.marker], HONEST);
        self.runtime.execute(request).await.expect("the victim starts");
        let deadline = std::time::Instant::now() + PATIENCE;
        loop {
            let request = StatusRequest { id: "victim".into(), ..StatusRequest::default() };
            let status = self.runtime.status(request).await.expect("the server answers").into_inner();
            if status.stdout == "ready\n" {
                return;
            }
            assert!(std::time::Instant::now() < deadline, "the victim is not ready: {status:?}");
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }

    /// Unless something reached it, it is as it was.
    async fn end_victim(&mut self, was_safe: bool) {
        let cancel = CancelRequest { id: "victim".into(), grace_seconds: 0, ..CancelRequest::default() };
        self.runtime.cancel(cancel).await.expect("cancels");
        let status = self.end("victim").await;
        assert!(!was_safe || status.stop_cause() == StopCause::Cancelled, "the victim was hurt: {status:?}");
    }
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    i64::try_from(since.as_micros()).expect("soon")
}

/// Removes a working directory, or the link that was put in its place, and what was put aside.
fn clear(path: &Path) {
    let is_link = std::fs::symlink_metadata(path).is_ok_and(|data| data.is_symlink());
    let _ = if is_link { std::fs::remove_file(path) } else { std::fs::remove_dir_all(path) };
    let _ = std::fs::remove_dir_all(path.with_extension("aside"));
}

fn seen(status: &StatusResponse) -> Seen {
    Seen { stopped: !status.stdout.contains("done: "), cause: status.stop_cause() }
}

/// What a busy machine holds back one time it may let pass the next.
const TRIES: u32 = 3;

async fn try_one(placed: &Placed, hand: &mut Hand, attack: &Attack) -> StatusResponse {
    hand.begin_victim(placed).await;
    let id = format!("try-{}", attack.name);
    hand.start(placed, &id, attack).await;
    let status = hand.end(&id).await;
    hand.end_victim(seen(&status).stopped).await;
    status
}

/// Tries each attack by itself, holds the ladder to its word in both directions, and prints what happened.
async fn try_each(placed: &Placed, hand: &mut Hand) -> BTreeMap<&'static str, Seen> {
    let mut all = BTreeMap::new();
    let mut wrong = Vec::new();
    for attack in ATTACKS {
        let claim = claim(placed, attack);
        let mut tries = 0;
        let (status, by_machine) = loop {
            let status = try_one(placed, hand, attack).await;
            tries += 1;
            let unexpected = seen(&status).stopped && !claim;
            let by_machine = unexpected && refused_by_the_machine(hand, attack);
            if !unexpected || by_machine || tries == TRIES {
                break (status, by_machine);
            }
        };
        let seen = seen(&status);
        let said = status.stdout.trim().to_owned() + " " + status.error_message.trim();
        let word = match (seen.stopped, claim) {
            (true, true) => "stopped",
            (false, false) => "not stopped at this level",
            (true, false) if by_machine => "refused by this machine, not by this level",
            (true, false) => "STOPPED, WHICH THE LADDER DOES NOT SAY",
            (false, true) => "NOT STOPPED, AGAINST THE LADDER'S WORD",
        };
        println!("  {:17} {:10} {word}: {:?} {said}", attack.name, attack.axis, seen.cause);
        // Who is stopped by a limit ends by that, everybody else by himself.
        let closed = attack.name.ends_with("-filler") && placed.mechanism("files") == "landlock";
        let cause = if seen.stopped && !closed { attack.cause } else { StopCause::Exited };
        if (seen.stopped != claim && !by_machine) || seen.cause != cause {
            wrong.push(format!("{}: claimed {claim}, {seen:?}: {said}", attack.name));
        }
        all.insert(attack.name, seen);
    }
    assert!(wrong.is_empty(), "the ladder does not tell what is:\n{}", wrong.join("\n"));
    all
}

fn p95(times: &[i64]) -> i64 {
    let mut times = times.to_vec();
    times.sort_unstable();
    times[(times.len() - 1) * 95 / 100]
}

#[allow(clippy::cast_precision_loss, reason = "microseconds of a test")]
fn ratio(slow: i64, fast: i64) -> f64 {
    slow as f64 / fast as f64
}

/// Trials that go on at once. Each is one attack with two honest Runs beside it, one after the other.
const LANES: usize = 3;

/// What takes part in the mixture at this level: all that is stopped or harmless, and whatever a limit speaks about, which is
/// small enough to be borne where nothing stops it.
fn mixed(tried: &BTreeMap<&'static str, Seen>) -> Vec<Attack> {
    let stops = |name: &str| tried.get(name).is_some_and(|seen| seen.stopped);
    let mut all: Vec<Attack> = HARMLESS.to_vec();
    all.extend(ATTACKS.iter().filter(|attack| attack.axis == "limits" || stops(attack.name)));
    all.extend(Some(STORM).filter(|_| stops("signal")));
    all
}

/// How long each honest Run took in microseconds, and beside which attack; `attacks` may be none, for the same number of Runs
/// at once with an honest one in the place of each attack.
async fn mixture(
    placed: &Placed,
    hand: &Hand,
    tried: &BTreeMap<&'static str, Seen>,
    attacks: &[Attack],
    trials: usize,
) -> Vec<(&'static str, i64)> {
    let lanes = (0..LANES).map(|lane| {
        let mut hand = hand.clone();
        async move {
            let mut times = Vec::new();
            for trial in (lane..trials).step_by(LANES) {
                // Every attack as often as any other, beside changing others.
                let turn = |count: usize| (trial + trial / count) % count;
                let attack = (!attacks.is_empty()).then(|| attacks[turn(attacks.len())]);
                let id = format!("third-{trial}");
                let begin = match &attack {
                    Some(attack) => {
                        hand.start(placed, &id, attack).await;
                        0
                    }
                    None => hand.begin_neighbour(placed, &id).await,
                };
                let name = attack.map_or("honest", |attack| attack.name);
                for honest in 0..2 {
                    times.push((name, hand.neighbour(placed, &format!("honest-{trial}-{honest}")).await));
                }
                match &attack {
                    Some(attack) => {
                        let status = hand.end(&id).await;
                        check(attack, tried, &status, trial);
                    }
                    None => times.push((name, hand.end_neighbour(&id, begin).await)),
                }
            }
            times
        }
    });
    futures::future::join_all(lanes).await.concat()
}

/// An attack ends among others as it did by itself.
fn check(attack: &Attack, tried: &BTreeMap<&'static str, Seen>, status: &StatusResponse, trial: usize) {
    let now = seen(status);
    let expected = match tried.get(attack.name) {
        // Where nothing holds it back, the others may leave it no more than its limit.
        Some(alone) if attack.name == "cpu" => Seen { stopped: now.stopped, ..alone.clone() },
        Some(alone) => alone.clone(),
        None if attack.name == STORM.name => Seen { stopped: true, cause: StopCause::Exited },
        None => Seen { stopped: now.stopped, cause: StopCause::Exited },
    };
    assert_eq!(now, expected, "{} in trial {trial}: {status:?}", attack.name);
}

fn trials() -> usize {
    match std::env::var("KRUNTIMES_HURT_TRIALS") {
        Ok(text) => text.parse().expect("KRUNTIMES_HURT_TRIALS is a number"),
        // Each attack once.
        Err(_) => 16,
    }
}

async fn hostile_runs(rights: Rights, env: &[(&str, &str)]) {
    let Some(placed) = Placed::start(rights, &[], env).await else { return };
    println!("the ladder with {}:\n{}", rights.name(), placed.printout());
    let canary = tempfile::tempdir().expect("tempdir");
    std::fs::write(canary.path().join("canary"), "sings").expect("canary");
    let before = std::fs::metadata(canary.path()).expect("canary");
    let mut hand = Hand::new(&placed, canary.path());
    let groups = placed.groups();

    println!("what it stops:");
    let tried = try_each(&placed, &mut hand).await;

    let trials = trials();
    let attacks = mixed(&tried);
    // The same number of Runs at once, before and after: what else this machine does hits both.
    let peace = trials.clamp(12, 300) / 2;
    let mut peaceful = mixture(&placed, &hand, &tried, &[], peace).await;
    let among = mixture(&placed, &hand, &tried, &attacks, trials).await;
    peaceful.extend(mixture(&placed, &hand, &tried, &[], peace).await);

    // Nothing is left, nothing outside was touched, the server is well.
    assert_eq!(marked(&hand.marker), [] as [i32; 0], "processes of ended Runs");
    let after = std::fs::metadata(canary.path()).expect("canary");
    use std::os::unix::fs::MetadataExt as _;
    assert_eq!((before.uid(), before.gid(), before.mode()), (after.uid(), after.gid(), after.mode()));
    assert_eq!(std::fs::read_to_string(canary.path().join("canary")).expect("canary"), "sings");
    let mut server = hand.runtime.clone();
    let health = server.health(kruntimes_proto::v1::HealthRequest {}).await.expect("answers").into_inner();
    assert!(health.healthy, "{}", health.message);
    let hurt = told(&placed, rights, trials, &peaceful, &among);
    println!("groups {groups} before, {} after", placed.groups());
    // Of a few trials the p95 is one Run.
    let held = placed.level("limits") == IsolationLevel::Hard && trials >= MANY;
    assert!(!held || hurt <= HURT, "neighbours take {hurt:.2} times as long");
    placed.end().await;
}

/// By how much attacks may slow neighbours down where limits are hard.
const HURT: f64 = 2.0;
/// From so many trials on the ratio says something.
const MANY: usize = 300;

/// Prints what became of the neighbours, and gives the ratio.
fn told(
    placed: &Placed,
    rights: Rights,
    trials: usize,
    peaceful: &[(&str, i64)],
    among: &[(&str, i64)],
) -> f64 {
    let of = |all: &[(&str, i64)], name: Option<&str>| -> Vec<i64> {
        all.iter()
            .filter(|(attack, _)| name.is_none_or(|name| name == *attack))
            .map(|(_, time)| *time)
            .collect()
    };
    let fast = p95(&of(peaceful, None));
    let names: std::collections::BTreeSet<_> = among.iter().map(|(name, _)| *name).collect();
    for name in names {
        let slow = p95(&of(among, Some(name)));
        println!("  beside {name:17} p95 {slow} us, ratio {:.2}", ratio(slow, fast));
    }
    let slow = p95(&of(among, None));
    let hurt = ratio(slow, fast);
    println!(
        "hurt: {}, limits {}: {trials} trials, {} neighbours, none hurt; p95 {fast} us among honest Runs, {slow} us among hostile ones, ratio {hurt:.2}",
        rights.name(),
        placed.mechanism("limits"),
        among.len(),
    );
    hurt
}

#[tokio::test]
async fn hostile_runs_with_all_rights() {
    hostile_runs(Rights::All, &[]).await;
}

#[tokio::test]
async fn hostile_runs_in_a_restricted_place() {
    hostile_runs(Rights::Restricted, &[]).await;
}

/// Where next to nothing is claimed, next to nothing is stopped: a claim of the other levels is worth something.
#[tokio::test]
async fn hostile_runs_where_nothing_keeps_them_apart() {
    let floor = "files=directory,devices=variables,privileges=no-new-privs";
    hostile_runs(Rights::Restricted, &[("KRUNTIME_ISOLATION", floor)]).await;
}
