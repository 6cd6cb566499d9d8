//! What the providers promise, and a model that the leases are held against.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::resources::{
    Amounts, Definition, Device, Indexed, Inventory, Lease, Quantity, ResourceProvider, Shortage,
};

const TOKENS: &str = "example.com/licence";
const DEVICES: &str = "example.com/fpga";
const SHARE: &str = "example.com/bandwidth";

fn definition(name: &str, kind: Kind, amount: Amount, env: Option<&str>) -> Definition {
    Definition { name: name.into(), kind, amount, devices: Vec::new(), env: env.map(Into::into) }
}

fn pool() -> Pool {
    let definitions = vec![
        definition(names::RUNS, Kind::Counted, Amount::whole(4), None),
        definition(TOKENS, Kind::Counted, Amount::whole(3), Some("LICENCES")),
        definition(DEVICES, Kind::Indexed, Amount::whole(3), Some("FPGAS")),
        definition(SHARE, Kind::Divisible, Amount::whole(10), None),
    ];
    Pool::new(Vec::new(), definitions).expect("a pool")
}

fn job(id: usize, wants: &[(&str, &str)]) -> Job {
    let mut job = Job { id: format!("run-{id}"), attempt: 1, ..Job::default() };
    job.resources = wants.iter().map(|(name, amount)| ((*name).into(), (*amount).into())).collect();
    job
}

fn acquire(leases: &Arc<Leases>, id: usize, wants: &[(&str, &str)]) -> Result<Option<Leased>, LaunchError> {
    leases.acquire(&job(id, wants))
}

#[test]
fn all_or_nothing_and_the_run_is_told_what_it_got() {
    let leases = Leases::open(pool(), None, "i").expect("opens");
    let one =
        acquire(&leases, 1, &[(DEVICES, "2"), (TOKENS, "1"), (SHARE, "2500m")]).expect("fits").expect("some");
    let env: BTreeMap<String, String> = one.env().into_iter().collect();
    assert_eq!((&*env["FPGAS"], &*env["LICENCES"]), ("0,1", "1"));
    assert!(env["KRUNTIME_DEVICES"].contains(r#"{"resource":"example.com/fpga","id":"0","amount":"1"}"#));
    // Not one of the three tokens is lost to the refusal.
    let full = acquire(&leases, 2, &[(TOKENS, "2"), (DEVICES, "2")]).err().expect("no two devices");
    assert_eq!(full, LaunchError::Busy("example.com/fpga: 2 asked for, 1 free".into()));
    let two = acquire(&leases, 2, &[(TOKENS, "2"), (DEVICES, "1")]).expect("fits").expect("some");
    assert_eq!(two.env().into_iter().find(|(name, _)| name == "FPGAS").expect("ids").1, "2");
    one.give_back();
    two.give_back();
    let (offers, devices) = leases.inventory();
    assert!(offers.iter().any(|offer| offer.name == DEVICES && offer.allocatable == "3"));
    assert!(devices.iter().all(|device| device.allocations.is_empty()));
}

#[test]
fn what_cannot_be_asked_for_is_named() {
    let leases = Leases::open(pool(), None, "i").expect("opens");
    for (wants, words) in [
        (("nvidia.com/gpu", "1"), ["resources[nvidia.com/gpu]", "this server has: example.com/bandwidth"]),
        (("kruntimes.io/gpu-memory", "20Gi"), ["resources[kruntimes.io/gpu-memory]", "unknown resource"]),
        ((TOKENS, "0.5"), ["resources[example.com/licence]", "whole number"]),
        ((SHARE, "-1"), ["resources[example.com/bandwidth]", "negative"]),
        ((SHARE, "much"), ["resources[example.com/bandwidth]", "\"much\""]),
    ] {
        let error = acquire(&leases, 1, &[wants]).err().expect("refused");
        let text = error.to_string();
        assert!(matches!(error, LaunchError::Invalid { .. }), "{text}");
        assert!(words.iter().all(|word| text.contains(word)), "{words:?} in {text}");
    }
    for name in [TOKENS, "nvidia.com/gpu"] {
        let nothing = acquire(&leases, 1, &[(name, "0")]).expect("zero is ignored").expect("a slot");
        assert!(nothing.env().is_empty(), "{name}");
        nothing.give_back();
    }
    // Where nothing is defined, requests are somebody else's matter.
    let none = Leases::open(Pool::new(Vec::new(), Vec::new()).expect("empty"), None, "i").expect("opens");
    assert!(acquire(&none, 1, &[("nvidia.com/gpu", "1")]).expect("passes").is_none());
}

#[test]
fn slots_are_taken_by_everybody() {
    let leases = Leases::open(pool(), None, "i").expect("opens");
    let four: Vec<_> = (0..4).map(|id| acquire(&leases, id, &[]).expect("fits")).collect();
    let full = acquire(&leases, 9, &[]).err().expect("full");
    assert_eq!(full, LaunchError::Busy("runs: 1 asked for, 0 free".into()));
    four.into_iter().flatten().for_each(Leased::give_back);
    assert!(acquire(&leases, 9, &[("runs", "4")]).is_ok());
}

#[test]
fn a_device_without_its_file_is_not_given_out() {
    let dir = tempfile::tempdir().expect("folder");
    let path = |name: &str| dir.path().join(name).display().to_string();
    std::fs::write(path("a"), "").expect("device");
    let provider = Indexed::new(DEVICES, [path("a"), path("b")]).env("FPGAS");
    let pool = Pool::new(vec![Box::new(provider)], Vec::new()).expect("a pool");
    let leases = Leases::open(pool, None, "i").expect("opens");
    let health = |leases: &Leases| -> Vec<String> {
        leases.inventory().1.into_iter().filter_map(|device| Some(device.health?.state)).collect()
    };
    assert_eq!(health(&leases), ["Healthy", "Lost"]);
    assert_eq!(leases.inventory().0[0].allocatable, "1");
    let held = acquire(&leases, 1, &[(DEVICES, "1")]).expect("fits").expect("some");
    assert_eq!(held.allocation.device_paths, [dir.path().join("a")]);
    assert!(acquire(&leases, 2, &[(DEVICES, "1")]).is_err());
    std::fs::write(dir.path().join("real"), "").expect("device");
    std::os::unix::fs::symlink(dir.path().join("real"), path("b")).expect("a link, as in /dev/disk/by-id");
    let second = acquire(&leases, 2, &[(DEVICES, "1")]).expect("fits").expect("some");
    assert_eq!(second.allocation.held[0].id, path("b"), "by its own name");
    assert_eq!(second.allocation.device_paths, [dir.path().join("real")], "what is opened");
    assert_eq!(health(&leases), ["Healthy", "Healthy"]);
    second.give_back();
    std::fs::remove_file(path("a")).expect("gone while it is held");
    assert_eq!(leases.inventory().0[0].allocatable, "2", "less what is held: one is free");
    acquire(&leases, 3, &[(DEVICES, "1")]).expect("fits").expect("some").give_back();
    held.give_back();
    assert_eq!(leases.inventory().0[0].allocatable, "1");
}

/// A device in two halves.
struct Halves(Quantity);

impl ResourceProvider for Halves {
    fn discover(&mut self) -> Inventory {
        let device = Device { resource: TOKENS.into(), id: String::new(), ..Device::default() };
        Inventory { devices: vec![device], ..self.0.discover() }
    }

    fn lease(&mut self, request: &Amounts) -> Result<Lease, Shortage> {
        self.0.lease(request)
    }

    fn restore(&mut self, held: &[Held]) -> Lease {
        self.0.restore(held)
    }

    fn release(&mut self, lease: &Lease) {
        self.0.release(lease);
    }
}

#[test]
fn every_part_of_a_shared_device_that_is_kept_back_counts() {
    let pool = Pool::new(vec![Box::new(Halves(Quantity::counted(TOKENS, 2)))], Vec::new()).expect("a pool");
    let leases = Leases::open(pool, None, "i").expect("opens");
    for run in [1, 2] {
        drop(acquire(&leases, run, &[(TOKENS, "1")]).expect("fits"));
    }
    let (offers, devices) = leases.inventory();
    assert_eq!((&*offers[0].allocatable, devices[0].allocations.len()), ("0", 2));
}

#[test]
fn what_an_unkillable_process_may_use_is_kept_back() {
    let leases = Leases::open(pool(), None, "i").expect("opens");
    acquire(&leases, 1, &[(DEVICES, "1")]).expect("fits").expect("some");
    let (offers, devices) = leases.inventory();
    assert_eq!(offers.iter().find(|offer| offer.name == DEVICES).expect("offer").allocatable, "2");
    let health = devices[0].health.clone().expect("health");
    assert_eq!((&*health.state, &*health.reason), ("Quarantined", UNPROVEN));
    assert!(acquire(&leases, 2, &[(DEVICES, "3")]).is_err());
    assert!(acquire(&leases, 2, &[(DEVICES, "2")]).is_ok());
}

#[test]
fn the_bill_is_amount_times_time() {
    let leases = Leases::open(pool(), None, "i").expect("opens");
    let held = acquire(&leases, 1, &[(DEVICES, "2"), (SHARE, "500m")]).expect("fits").expect("some");
    let allocation = Arc::clone(&held.allocation);
    let mut status = StatusResponse { usage: Some(v1::Usage::default()), ..StatusResponse::default() };
    allocation.tell(&mut status, allocation.since + Duration::from_secs(2));
    let told: Vec<_> = status.usage.expect("usage").figures;
    let told: Vec<_> = told.iter().map(|f| (&*f.name, f.value, &*f.unit, &*f.source, f.scope())).collect();
    assert_eq!(
        told,
        [
            ("example.com/bandwidth_held_seconds", 1.0, "1*s", "lease", Scope::Allocation),
            ("example.com/fpga_held_seconds", 4.0, "s", "lease", Scope::Allocation),
        ]
    );
    assert_eq!(status.devices.len(), 3);
    held.give_back();
    // It does not grow once given back.
    let end = allocation.until.get().copied().expect("given back");
    assert_eq!(allocation.figures(end + Duration::from_secs(9)), allocation.figures(end));
}

#[test]
fn two_providers_of_one_name_are_refused_but_the_author_wins_over_the_runtime() {
    let tokens = || Box::new(Quantity::counted(TOKENS, 1)) as Box<dyn ResourceProvider>;
    assert!(Pool::new(vec![tokens(), tokens()], Vec::new()).err().expect("refused").contains(TOKENS));
    let runtime = definition(TOKENS, Kind::Counted, Amount::whole(9), None);
    let mut pool = Pool::new(vec![tokens()], vec![runtime]).expect("a pool");
    assert_eq!(pool.inventory().0[0].allocatable, Amount::ONE);
}

/// An execution in the model: what it holds, its server's guard, its supervisor's descriptor.
struct Process {
    wants: [i64; 3],
    ids: Vec<String>,
    leased: Option<Leased>,
    _lock: Option<OwnedFd>,
}

#[derive(Clone, Debug)]
enum Step {
    Start([i64; 3]),
    /// The execution at this place of the list ends, as its server sees it.
    Finish(usize),
    /// The server is killed; the executions in the mask are not gone yet when the next one starts.
    Restart(u32),
    /// An execution that survived its server ends.
    Die(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => [0i64..4, 0i64..4, 0i64..11].prop_map(Step::Start),
        3 => (0usize..8).prop_map(Step::Finish),
        1 => any::<u32>().prop_map(Step::Restart),
        2 => (0usize..8).prop_map(Step::Die),
    ]
}

const CAPACITY: [i64; 3] = [3, 3, 10];
const NAMES: [&str; 3] = [TOKENS, DEVICES, SHARE];

struct Model<'a> {
    folder: &'a Path,
    leases: Arc<Leases>,
    processes: Vec<Process>,
    servers: usize,
    started: usize,
}

impl Model<'_> {
    fn open(folder: &Path, server: usize) -> Arc<Leases> {
        Leases::open(pool(), Some(folder), &format!("server-{server}")).expect("opens")
    }

    fn held(&self) -> [i64; 3] {
        self.processes
            .iter()
            .fold([0; 3], |sum, process| [0, 1, 2].map(|index| sum[index] + process.wants[index]))
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Start(wants) => self.start(wants),
            Step::Finish(index) => {
                let place = self.places(true).nth(index);
                // The supervisor reports and ends, the server gives back.
                let process = place.map(|place| self.processes.remove(place));
                process.and_then(|process| process.leased).into_iter().for_each(Leased::give_back);
            }
            Step::Restart(survive) => {
                for process in &mut self.processes {
                    drop(process.leased.take());
                }
                let mut place = 0;
                self.processes.retain(|_| {
                    place += 1;
                    survive & (1 << place) != 0
                });
                self.servers += 1;
                self.leases = Self::open(self.folder, self.servers);
            }
            Step::Die(index) => {
                let place = self.places(false).nth(index);
                place.map(|place| self.processes.remove(place));
            }
        }
        // Those that hold nothing but a slot are not written down.
        let survivors = self.processes.iter().any(|p| p.leased.is_none() && p.wants != [0; 3]);
        self.sweep(survivors);
    }

    /// A child that another test forks at this moment has the locks too, until its exec.
    fn sweep(&self, survivors: bool) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while self.leases.sweep() != survivors {
            assert!(Instant::now() < deadline, "survivors: {survivors}");
            std::thread::yield_now();
        }
    }

    /// Places of the executions of this server, or of those that survived an earlier one.
    fn places(&self, own: bool) -> impl Iterator<Item = usize> {
        let places = self.processes.iter().enumerate().filter(move |(_, p)| p.leased.is_some() == own);
        places.map(|(place, _)| place)
    }

    fn start(&mut self, wants: [i64; 3]) {
        let slots = self.processes.iter().filter(|process| process.leased.is_some()).count();
        let held = self.held();
        let fits = slots < 4 && [0, 1, 2].iter().all(|i| held[*i] + wants[*i] <= CAPACITY[*i]);
        self.started += 1;
        let mut job = job(self.started, &[]);
        for (name, want) in NAMES.iter().zip(wants) {
            job.resources.insert((*name).into(), want.to_string());
        }
        let leased = self.leases.acquire(&job);
        assert_eq!(leased.is_ok(), fits, "{wants:?} beside {held:?}");
        let Ok(Some(leased)) = leased else { return };
        let devices = leased.allocation.held.iter().filter(|held| held.resource == DEVICES);
        let ids = devices.map(|held| held.id.clone()).collect();
        let lock = leased.lock().expect("a descriptor");
        self.processes.push(Process { wants, ids, leased: Some(leased), _lock: lock });
    }

    /// The pool says what the model says; no device is held twice.
    fn check(&self) {
        let held = self.held();
        let mut ids: Vec<&String> = self.processes.iter().flat_map(|process| &process.ids).collect();
        assert_eq!(ids.len() as i64, held[1]);
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len() as i64, held[1], "a device is held twice");
        let survivors = self.processes.iter().filter(|process| process.leased.is_none());
        let stuck = survivors.fold([0; 3], |sum, p| [0, 1, 2].map(|index| sum[index] + p.wants[index]));
        let (offers, devices) = self.leases.inventory();
        for index in [0, 1, 2] {
            let offer = offers.iter().find(|offer| offer.name == NAMES[index]).expect("offer");
            assert_eq!(offer.allocatable, (CAPACITY[index] - stuck[index]).to_string());
        }
        for device in devices {
            let holders = self.processes.iter().filter(|process| process.ids.contains(&device.id)).count();
            assert_eq!(device.allocations.len(), holders);
            assert!(holders <= 1);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn never_over_capacity_and_never_leaked(steps in proptest::collection::vec(step(), 1..40)) {
        let dir = tempfile::tempdir().expect("folder");
        let mut model = Model {
            folder: dir.path(),
            leases: Model::open(dir.path(), 0),
            processes: Vec::new(),
            servers: 0,
            started: 0,
        };
        for step in steps {
            model.take(step);
            model.check();
        }
        model.processes.drain(..).filter_map(|process| process.leased).for_each(Leased::give_back);
        model.sweep(false);
        model.check();
        prop_assert_eq!(std::fs::read_dir(dir.path()).expect("folder").count(), 0, "a file is left");
        model.start(CAPACITY);
        prop_assert_eq!(model.processes.len(), 1, "everything is free again");
    }
}
