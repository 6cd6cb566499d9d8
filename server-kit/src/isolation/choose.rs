//! Which fences every Run gets: for each axis the best that holds, found by trying, with the reasons of those
//! that do not.

use std::path::Path;

use kruntimes_proto::v1::IsolationAxis;
use kruntimes_proto::v1::IsolationLevel::{self, Hard, None as Nothing, Soft};
use kruntimes_resources::names;

use super::fence::Fences;
use super::limits::FOR_GROUPS;
use super::network::NetworkFence;
use super::places::Places;
use super::rooms::SHARED_MEMORY;
use super::{AtMost, Axis, unwanted};

/// What is known before anything is tried.
#[derive(Clone, Debug)]
pub(crate) struct Wish {
    pub places: Places,
    /// The Runtime asks for Runs without network.
    pub no_network: bool,
    /// Runs can lease a part of the network's bandwidth.
    pub bandwidth: bool,
    /// Where the ladder of an axis is to begin.
    pub at_most: Vec<AtMost>,
    /// Landlock's version here.
    pub abi: u32,
    /// A Run with the server's id could gain capabilities by executing a file.
    pub keeps_capabilities: bool,
    /// Modes of files do not bind this server: it has `CAP_DAC_OVERRIDE`.
    pub over_modes: bool,
    /// Accelerators under /dev that every Run may use.
    pub accelerators: Vec<String>,
    /// Whether a Run's control groups can filter devices, or why not.
    pub device_groups: Result<(), String>,
}

/// What holds on one axis and why not more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    pub axis: Axis,
    pub level: IsolationLevel,
    pub mechanism: &'static str,
    pub reasons: Vec<String>,
    /// Of a level that is not the best: the settings that would give a better one.
    pub remedies: Vec<&'static str>,
}

impl Held {
    pub(crate) fn new(
        axis: Axis,
        level: IsolationLevel,
        mechanism: &'static str,
        reasons: Vec<String>,
    ) -> Self {
        Self { axis, level, mechanism, reasons, remedies: Vec::new() }
    }

    pub(crate) fn tell(self) -> IsolationAxis {
        IsolationAxis {
            axis: self.axis.name().to_owned(),
            level: self.level.into(),
            mechanism: self.mechanism.to_owned(),
            reason: self.reasons.join("; "),
        }
    }
}

/// The Pod settings that would give a better level, said with the reason.
const FOR_IDS: &str = "securityContext.runAsUser 0 with the capabilities CHOWN, DAC_OVERRIDE, FOWNER, KILL, SETGID and SETUID gives it";
const FOR_NAMESPACES: &str = "hostUsers false with runAsUser 0 and the capability SYS_ADMIN gives it, or a seccompProfile that allows user namespaces";
const FOR_LANDLOCK: &str =
    "a node whose kernel has Landlock gives it (5.13 or later, named in its lsm= list)";
const FOR_LANDLOCK_TCP: &str = "Linux 6.7 gives it";
const FOR_NO_NETWORK: &str = "isolation.network None of the Runtime gives it";
const FOR_ACCELERATORS: &str = "a definition in resources[] of the Runtime (kind Indexed, devices by their paths) gives each Run its own";
const FOR_CAPABILITIES: &str = "the capability SETPCAP, or none at all, gives it";

/// What a Run lacks where neither mounts nor ids keep Runs apart in it.
const NO_SHARED_MEMORY: &str = "Runs have no /dev/shm: with one id for all, nobody could tell whose is what is left there (a volume of the Runtime's template at /dev/shm is shared by all of them)";

/// Decides; `attempt` puts fences up, around a Run with an id of its own if asked, and says why not.
pub(crate) fn choose(wish: &Wish, mut attempt: impl FnMut(&Fences, bool) -> Result<(), String>) -> Chosen {
    let mut climb = Climb { wish, fences: start(wish), device_groups: false, refused: Vec::new() };
    climb.step(Axis::Privileges, "seccomp", "", |fences| fences.filter = true, &mut |f| attempt(f, false));
    climb.landlock(&mut |f| attempt(f, false));
    climb.device_groups();
    let view = |fences: &mut Fences| fences.view = true;
    let mut direct =
        climb.step(Axis::Files, "mount-namespace", FOR_NAMESPACES, view, &mut |f| attempt(f, false));
    if wish.no_network {
        let alone = |fences: &mut Fences| fences.network = NetworkFence::Namespace;
        direct &= climb.step(Axis::Network, "namespace", FOR_NAMESPACES, alone, &mut |f| attempt(f, false));
    }
    let ids = |fences: &mut Fences| fences.own_ids = true;
    let ids = climb.step(Axis::Privileges, "own-uid", FOR_IDS, ids, &mut |f| attempt(f, true));
    // A user namespace holds one id: it is for servers that could not give out others anyway.
    if !direct && !ids {
        climb.by_user_namespace(&mut |f| attempt(f, false));
    }
    if wish.no_network && climb.fences.network == NetworkFence::Shared {
        climb.without_network_namespace(&mut |f| attempt(f, false));
    }
    climb.done()
}

/// The result: what to do, and what to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Chosen {
    pub fences: Fences,
    /// Each Run's control groups hold its devices.
    pub device_groups: bool,
    /// No Run can reach what is the kit's: of those with a folder of their own, and of those without.
    pub guards_kit: [bool; 2],
    /// For Runs with a folder of their own.
    pub held: Vec<Held>,
    /// For Runs without.
    pub held_shared: Vec<Held>,
}

fn start(wish: &Wish) -> Fences {
    Fences { places: wish.places.clone(), abi: wish.abi, ..Fences::default() }
}

struct Climb<'a> {
    wish: &'a Wish,
    fences: Fences,
    device_groups: bool,
    refused: Vec<Refusal>,
}

/// What does not hold.
struct Refusal {
    axis: Axis,
    /// Mechanism, why, and the remedy.
    text: String,
    /// Empty where nothing is known to help.
    remedy: &'static str,
}

type Attempt<'a> = &'a mut dyn FnMut(&Fences) -> Result<(), String>;

impl Climb<'_> {
    /// Adds one fence if it is wanted and holds.
    fn step(
        &mut self,
        axis: Axis,
        mechanism: &'static str,
        remedy: &'static str,
        change: impl Fn(&mut Fences),
        attempt: Attempt<'_>,
    ) -> bool {
        if let Some(limit) = self.limit(axis, mechanism) {
            self.refuse(axis, mechanism, &limit, "");
            return false;
        }
        let mut tried = self.fences.clone();
        change(&mut tried);
        match attempt(&tried) {
            Ok(()) => self.fences = tried,
            Err(why) => {
                self.refuse(axis, mechanism, &why, remedy);
                return false;
            }
        }
        true
    }

    /// Why `mechanism` is not to be tried.
    fn limit(&self, axis: Axis, mechanism: &str) -> Option<String> {
        unwanted(&self.wish.at_most, axis, mechanism)
    }

    fn refuse(&mut self, axis: Axis, mechanism: &str, why: &str, remedy: &'static str) {
        let help = if remedy.is_empty() { String::new() } else { format!(" ({remedy})") };
        self.refused.push(Refusal { axis, text: format!("{mechanism}: {why}{help}"), remedy });
    }

    fn landlock(&mut self, attempt: Attempt<'_>) {
        if self.wish.abi == 0 {
            for axis in [Axis::Files, Axis::Devices] {
                self.refuse(axis, "landlock", "the kernel has none", FOR_LANDLOCK);
            }
            return;
        }
        self.step(Axis::Devices, "landlock", FOR_LANDLOCK, |fences| fences.devices = true, attempt);
        self.step(Axis::Files, "landlock", FOR_LANDLOCK, |fences| fences.files = true, attempt);
    }

    /// Where Landlock does not hold devices, groups may.
    fn device_groups(&mut self) {
        if self.fences.devices {
            return;
        }
        let (axis, name, wish) = (Axis::Devices, "cgroup", self.wish);
        match (self.limit(axis, name), &wish.device_groups) {
            (Some(limit), _) => self.refuse(axis, name, &limit, ""),
            (None, Err(why)) => self.refuse(axis, name, why, FOR_GROUPS),
            (None, Ok(())) => self.device_groups = true,
        }
    }

    fn by_user_namespace(&mut self, attempt: Attempt<'_>) {
        let before = std::mem::take(&mut self.refused);
        let view = |fences: &mut Fences| (fences.user_namespace, fences.view) = (true, true);
        let mut all = self.step(Axis::Files, "mount-namespace", FOR_NAMESPACES, view, attempt);
        if self.wish.no_network {
            let alone = |fences: &mut Fences| {
                (fences.user_namespace, fences.network) = (true, NetworkFence::Namespace);
            };
            all &= self.step(Axis::Network, "namespace", FOR_NAMESPACES, alone, attempt);
        }
        // The first tries' reasons say less: without SYS_ADMIN they could not hold.
        let told = |axis| all || self.refused.iter().any(|other| other.axis == axis);
        let kept: Vec<_> =
            before.into_iter().filter(|old| !(old.text.contains("namespace: ") && told(old.axis))).collect();
        self.refused.extend(kept);
    }

    fn without_network_namespace(&mut self, attempt: Attempt<'_>) {
        let sockets = |fences: &mut Fences| fences.network = NetworkFence::Sockets;
        if self.step(Axis::Network, "seccomp", "", sockets, attempt) {
            return;
        }
        if self.wish.abi < 4 {
            self.refuse(
                Axis::Network,
                "landlock-tcp",
                "the kernel's Landlock knows no network",
                FOR_LANDLOCK_TCP,
            );
            return;
        }
        self.step(Axis::Network, "landlock-tcp", "", |fences| fences.network = NetworkFence::Tcp, attempt);
    }

    fn done(self) -> Chosen {
        let of = |axis: Axis, weaknesses: Vec<String>| -> Vec<String> {
            let refused = self.refused.iter().filter(|other| other.axis == axis);
            refused.map(|other| other.text.clone()).chain(weaknesses).collect()
        };
        let guards_kit =
            [self.fences.own_ids, false].map(|ids| self.fences.guard_kit(ids, self.wish.over_modes));
        let list = |own_folder: bool, ids: bool| {
            let groups = self.device_groups.then_some(guards_kit[usize::from(!own_folder)]);
            [
                files(&self.fences, own_folder, ids, &of),
                devices(&self.fences, groups, &self.wish.accelerators, &of),
                network(&self.fences, self.wish, &of),
                privileges(&self.fences, ids, own_folder, self.wish.keeps_capabilities, &of),
            ]
            .map(|held| self.with_remedies(held))
            .to_vec()
        };
        let (held, held_shared) = (list(true, self.fences.own_ids), list(false, false));
        Chosen { fences: self.fences, device_groups: self.device_groups, guards_kit, held, held_shared }
    }

    /// Adds what would give more than is held: for what was tried in vain, and for what was not asked for.
    fn with_remedies(&self, mut held: Held) -> Held {
        if held.level == Hard {
            // Nothing is missing: another way to the same is no reason.
            held.reasons.retain(|reason| self.refused.iter().all(|other| other.text != *reason));
            return held;
        }
        let tried = self.refused.iter().filter(|other| other.axis == held.axis).map(|other| other.remedy);
        let more = match held.axis {
            Axis::Devices if self.fences.devices || self.device_groups => FOR_ACCELERATORS,
            Axis::Network if !self.wish.no_network => FOR_NO_NETWORK,
            Axis::Privileges if held.level == Nothing => FOR_CAPABILITIES,
            _ => "",
        };
        for remedy in tried.chain([more]).filter(|remedy| !remedy.is_empty()) {
            if !held.remedies.contains(&remedy) {
                held.remedies.push(remedy);
            }
        }
        held
    }
}

type Reasons<'a> = &'a dyn Fn(Axis, Vec<String>) -> Vec<String>;

fn files(fences: &Fences, own_folder: bool, ids: bool, of: Reasons<'_>) -> Held {
    let mechanism = match (fences.view, fences.files) {
        (true, true) => "mount-namespace",
        (true, false) => "private-tmp",
        (false, true) => "landlock",
        (false, false) => "directory",
    };
    let mut weak: Vec<String> = Vec::new();
    if !own_folder {
        weak.push(
            "its working directory is not a folder of its own below the work directory: others may share it"
                .into(),
        );
        return Held::new(Axis::Files, Nothing, mechanism, of(Axis::Files, weak));
    }
    if fences.files {
        weak.extend(landlock_weaknesses(fences));
    }
    if !fences.view && !fences.filter {
        weak.push(
            "System V objects and message queues are the container's, and what is left of them stays".into(),
        );
    }
    if !fences.view && !ids {
        match (fences.files, fences.places.shared.iter().any(|path| path == Path::new(SHARED_MEMORY))) {
            (true, false) => weak.push(NO_SHARED_MEMORY.into()),
            (true, true) => {}
            (false, _) => {
                weak.push("/dev/shm is shared with Runs of the same id, and what is left there stays".into())
            }
        }
        weak.push("the kit's socket can be connected to; its token is what keeps a Run out".into());
        if fences.files {
            weak.push(
                "mode and times of files of the same id can be changed, and its terminals opened: a hostile Run could close a neighbour's folder"
                    .into(),
            );
        }
    }
    if !fences.places.shared.is_empty() {
        let paths: Vec<_> = fences.places.shared.iter().map(|path| path.display().to_string()).collect();
        weak.push(format!("given to all Runs by the Pod's volumes: {}", paths.join(", ")));
    }
    let level = match (fences.files, fences.view || ids) {
        (true, true) => Hard,
        (true, false) => Soft,
        // Folders of mode 0700 with an id each.
        (false, _) if ids => Soft,
        (false, _) => {
            weak.push("all Runs share one id: a folder of mode 0700 does not keep them apart".into());
            Nothing
        }
    };
    Held::new(Axis::Files, level, mechanism, of(Axis::Files, weak))
}

/// What versions of Landlock before the newest cannot refuse.
fn landlock_weaknesses(fences: &Fences) -> impl Iterator<Item = String> {
    let (abi, view) = (fences.abi, fences.view);
    let known = [
        (2, "no file can be moved from one folder to another"),
        (3, "files that are only readable can be truncated where their mode allows it"),
        (6, "abstract unix sockets are shared, and processes of the same id can be signalled"),
        (9, "unix sockets at a path can be connected to where their mode allows it"),
    ];
    known
        .into_iter()
        .filter(move |(since, _)| abi < *since && !(view && *since == 9))
        .map(move |(_, what)| format!("Landlock ABI {abi}: {what}"))
}

/// `groups` is whether nobody can change them, where control groups hold devices.
fn devices(fences: &Fences, groups: Option<bool>, accelerators: &[String], of: Reasons<'_>) -> Held {
    if !fences.devices && groups.is_none() {
        let weak =
            vec!["variables name the devices of a Run, which hides the others without fencing them".into()];
        return Held::new(Axis::Devices, Nothing, "variables", of(Axis::Devices, weak));
    }
    let mut weak = Vec::new();
    if groups == Some(false) {
        weak.push(super::UNGUARDED.to_owned());
    }
    if groups.is_none() && fences.abi < 5 {
        weak.push(format!("Landlock ABI {}: what is done to an open device is not looked at", fences.abi));
    }
    let level = if accelerators.is_empty() && groups != Some(false) { Hard } else { Soft };
    if !accelerators.is_empty() {
        weak.push(format!("open to every Run: {}", accelerators.join(", ")));
    }
    let mechanism = if groups.is_some() { "cgroup" } else { "landlock" };
    Held::new(Axis::Devices, level, mechanism, of(Axis::Devices, weak))
}

fn network(fences: &Fences, wish: &Wish, of: Reasons<'_>) -> Held {
    let told = |level, mechanism, weak: &[&str]| {
        let mut weak: Vec<_> = weak.iter().map(ToString::to_string).collect();
        if wish.bandwidth {
            weak.push(format!("{} is accounted only", names::NETWORK_BANDWIDTH));
        }
        Held::new(Axis::Network, level, mechanism, of(Axis::Network, weak))
    };
    match fences.network {
        NetworkFence::Namespace => told(Hard, "namespace", &[]),
        NetworkFence::Sockets => {
            told(Soft, "seccomp", &["unix sockets of the Pod can be reached where their mode allows it"])
        }
        NetworkFence::Tcp => told(Soft, "landlock-tcp", &["TCP only: UDP and raw sockets pass"]),
        NetworkFence::Shared if wish.no_network => {
            told(Nothing, "shared", &["every Run shares the Pod's network"])
        }
        NetworkFence::Shared => told(
            Nothing,
            "shared",
            &["every Run shares the Pod's network, as isolation.network Shared wants it"],
        ),
    }
}

fn privileges(fences: &Fences, ids: bool, own_folder: bool, keeps: bool, of: Reasons<'_>) -> Held {
    let mut weak = Vec::new();
    if fences.own_ids && !own_folder {
        weak.push("without a folder of its own a Run keeps the server's id".into());
    } else if !ids {
        weak.push(
            "all Runs share the server's id: a hostile one could take priority and processors from others"
                .into(),
        );
    }
    let (level, mechanism) = match (ids, fences.filter) {
        (true, true) => (Hard, "own-uid"),
        (true, false) => (Soft, "own-uid"),
        (false, true) => (Soft, "seccomp"),
        (false, false) => (Soft, "no-new-privs"),
    };
    if !ids && keeps {
        weak.push(
            "capabilities of the container stay with programs that run as root: dropping them needs SETPCAP"
                .into(),
        );
        return Held::new(Axis::Privileges, Nothing, mechanism, of(Axis::Privileges, weak));
    }
    Held::new(Axis::Privileges, level, mechanism, of(Axis::Privileges, weak))
}

#[cfg(test)]
#[path = "choose_tests.rs"]
mod tests;
