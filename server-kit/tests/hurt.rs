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

/// What every Run of these tests may use.
const LIMITS: &[(&str, &str)] =
    &[("memory", "64Mi"), ("pids", "24"), ("cpu", "250m"), ("ephemeral-storage", "16Mi")];

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
    breach("cpu", StopCause::Exited),
    attack("signal", "privileges", Against::Victim),
    attack("trace", "privileges", Against::Victim),
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

/// What the ladder says about it; `None` where it promises a part only.
fn claim(placed: &Placed, attack: &Attack) -> Option<bool> {
    let bare = placed.mechanism("privileges") == "no-new-privs" && placed.mechanism("files") == "directory";
    match placed.level(attack.axis) {
        IsolationLevel::Hard => Some(true),
        // A busy machine may give it no more than its limit would.
        IsolationLevel::None if attack.name == "cpu" => None,
        IsolationLevel::None => Some(false),
        _ if attack.axis == "privileges" && bare => Some(false),
        _ => None,
    }
}

const MARKER: &str = "hurt-victim";

/// A client of its own, with what the Runs are given.
#[derive(Clone)]
struct Hand {
    runtime: RuntimeClient<Proved>,
    program: String,
    work: std::path::PathBuf,
    kit: String,
    canary: String,
}

impl Hand {
    fn new(placed: &Placed, canary: &Path) -> Self {
        Self {
            runtime: placed.server.runtime.clone(),
            program: placed.program("attack"),
            work: placed.server.work_dir(),
            kit: placed.server.socket_dir().display().to_string(),
            canary: canary.display().to_string(),
        }
    }

    fn request(&self, placed: &Placed, id: &str, words: &[&str]) -> ExecuteRequest {
        let mut request = job(id, &[&[self.program.as_str()], words].concat());
        request.working_dir = placed.work(id);
        request.limits =
            LIMITS.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        request.env.insert("SECRET".into(), "of the environment".into());
        request
    }

    /// Starts an attack; the victim's and its own folders are those of these ids.
    async fn start(&mut self, placed: &Placed, id: &str, attack: &Attack) {
        let victim = self.work.join("victim").display().to_string();
        let word = match attack.against {
            Against::Nothing => "",
            Against::Victim => MARKER,
            Against::Workspace => &victim,
            Against::Kit => &self.kit,
            Against::Canary => &self.canary,
        };
        let request = self.request(placed, id, &[attack.name, word]);
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

    /// An honest Run: checks that it is right, and gives the time from the call to its end in microseconds.
    async fn neighbour(&mut self, placed: &Placed, id: &str) -> i64 {
        let request = self.request(placed, id, &["neighbour"]);
        let begin = now();
        self.runtime.execute(request).await.expect("an honest Run is taken");
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

/// Tries each attack by itself, holds the ladder to its word, and prints what happened.
async fn try_each(placed: &Placed, hand: &mut Hand) -> BTreeMap<&'static str, Seen> {
    let mut all = BTreeMap::new();
    let mut wrong = Vec::new();
    for attack in ATTACKS {
        let request = hand.request(placed, "victim", &["victim", MARKER]);
        hand.runtime.execute(request).await.expect("the victim starts");
        eventually("the victim is ready", || !marked(MARKER).is_empty()).await;
        let id = format!("try-{}", attack.name);
        hand.start(placed, &id, attack).await;
        let status = hand.end(&id).await;
        let seen = seen(&status);
        let claim = claim(placed, attack);
        let said = status.stdout.trim().to_owned() + " " + status.error_message.trim();
        let (word, promise) = match (seen.stopped, claim) {
            (true, Some(false)) => ("stopped", "not promised"),
            (true, _) => ("stopped", "as told"),
            (false, Some(true)) => ("NOT STOPPED", "AGAINST THE LADDER'S WORD"),
            (false, _) => ("not stopped at this level", "as told"),
        };
        println!("  {:17} {:10} {word}, {promise}: {:?} {said}", attack.name, attack.axis, seen.cause);
        let enforced = attack.axis == "limits" && seen.stopped && attack.cause != StopCause::Exited;
        if claim.is_some_and(|claim| claim != seen.stopped) || (enforced && seen.cause != attack.cause) {
            wrong.push(format!("{}: claimed {claim:?}, {seen:?}: {said}", attack.name));
        }
        all.insert(attack.name, seen);
        let cancel = CancelRequest { id: "victim".into(), grace_seconds: 0, ..CancelRequest::default() };
        hand.runtime.cancel(cancel).await.expect("cancels");
        hand.end("victim").await;
    }
    assert!(wrong.is_empty(), "the ladder does not tell what is:\n{}", wrong.join("\n"));
    all
}

/// How long honest Runs take, alone or among hostile ones, in microseconds.
fn p95(times: &mut [i64]) -> i64 {
    times.sort_unstable();
    times[(times.len() - 1) * 95 / 100]
}

/// Whether limits are held by measuring several times a second, and not by the kernel.
fn is_policed(status: &StatusResponse) -> bool {
    let axes = status.isolation.iter().flat_map(|isolation| &isolation.axes);
    axes.filter(|axis| axis.axis == "limits").any(|axis| axis.mechanism == "policing")
}

/// Attacks and neighbours in `LANES` lanes. Each trial is one attack with two honest Runs beside it.
const LANES: usize = 3;

async fn mixture(
    placed: &Placed,
    hand: &Hand,
    tried: &BTreeMap<&'static str, Seen>,
    trials: usize,
) -> Vec<i64> {
    let stops = |name: &str| tried.get(name).is_some_and(|seen| seen.stopped);
    let mut all: Vec<Attack> = HARMLESS.to_vec();
    // Those on limits are small enough to be borne where nothing stops them.
    all.extend(ATTACKS.iter().filter(|attack| attack.axis == "limits" || stops(attack.name)));
    all.extend(Some(STORM).filter(|_| stops("signal")));
    let lanes = (0..LANES).map(|lane| {
        let (all, mut hand) = (all.clone(), hand.clone());
        async move {
            let mut times = Vec::new();
            for trial in (lane..trials).step_by(LANES) {
                // Every attack as often as any other, beside changing others.
                let attack = &all[(trial + trial / all.len()) % all.len()];
                let id = format!("hostile-{trial}");
                hand.start(placed, &id, attack).await;
                for honest in 0..2 {
                    times.push(hand.neighbour(placed, &format!("honest-{trial}-{honest}")).await);
                }
                let status = hand.end(&id).await;
                if let Some(before) = tried.get(attack.name).filter(|_| attack.name != "cpu") {
                    let now = seen(&status);
                    // What is only looked at now and then is caught or missed by chance.
                    let by_chance = attack.axis == "limits" && is_policed(&status);
                    assert!(by_chance || now == *before, "{} in trial {trial}: {status:?}", attack.name);
                }
            }
            times
        }
    });
    futures::future::join_all(lanes).await.concat()
}

fn trials() -> usize {
    match std::env::var("KRUNTIMES_HURT_TRIALS") {
        Ok(text) => text.parse().expect("KRUNTIMES_HURT_TRIALS is a number"),
        Err(_) => 30,
    }
}

async fn hostile_runs(rights: Rights) {
    let Some(placed) = Placed::start(rights, &[], &[]).await else { return };
    println!("the ladder with {}:\n{}", rights.name(), placed.printout());
    let canary = tempfile::tempdir().expect("tempdir");
    std::fs::write(canary.path().join("canary"), "sings").expect("canary");
    let before = std::fs::metadata(canary.path()).expect("canary");
    let mut hand = Hand::new(&placed, canary.path());
    let groups = placed.groups();

    println!("what it stops:");
    let tried = try_each(&placed, &mut hand).await;

    let trials = trials();
    let mut alone = Vec::new();
    for run in 0..trials.clamp(20, 200) {
        alone.push(hand.neighbour(&placed, &format!("alone-{run}")).await);
    }
    let mut among = mixture(&placed, &hand, &tried, trials).await;

    // Nothing is left, nothing outside was touched, the server is well.
    assert_eq!(marked(MARKER), [] as [i32; 0], "processes of ended Runs");
    let after = std::fs::metadata(canary.path()).expect("canary");
    use std::os::unix::fs::MetadataExt as _;
    assert_eq!((before.uid(), before.gid(), before.mode()), (after.uid(), after.gid(), after.mode()));
    assert_eq!(std::fs::read_to_string(canary.path().join("canary")).expect("canary"), "sings");
    let mut server = hand.runtime.clone();
    let health = server.health(kruntimes_proto::v1::HealthRequest {}).await.expect("answers").into_inner();
    assert!(health.healthy, "{}", health.message);
    let (fast, slow) = (p95(&mut alone), p95(&mut among));
    #[allow(clippy::cast_precision_loss, reason = "microseconds of a test")]
    let ratio = slow as f64 / fast as f64;
    println!(
        "hurt: {}, limits {}: {trials} trials, {} neighbours, none hurt; p95 {fast} us alone, {slow} us among, ratio {ratio:.2}; groups {groups} before, {} after",
        rights.name(),
        placed.mechanism("limits"),
        among.len(),
        placed.groups()
    );
    placed.end().await;
}

#[tokio::test]
async fn hostile_runs_with_all_rights() {
    hostile_runs(Rights::All).await;
}

#[tokio::test]
async fn hostile_runs_in_a_restricted_place() {
    hostile_runs(Rights::Restricted).await;
}
