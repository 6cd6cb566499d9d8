//! The pool and the journal as the engine uses them.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use kruntimes_proto::v1::{self, AccountingSource, Scope, StatusResponse};
use kruntimes_resources::{Kind, display, is_bytes, names};
use tokio::sync::Notify;

use super::journal::{Entry, Journal, Record, Survivor};
use super::pool::{Key, Told};
use super::{Amount, Figure, FigureScope, HealthState, Held, Pool};
use crate::server::{Job, LaunchError};

/// Source of the amounts that were held times how long.
const LEASE: &str = "lease";
/// Variable with everything that a Run holds, as JSON.
const DEVICES_ENV: &str = "KRUNTIME_DEVICES";
/// Why the devices of an earlier server's execution are kept back.
const SURVIVES: &str = "an execution of an earlier server is not known to be gone";
/// Why those of an ended one are.
const UNPROVEN: &str = "a process of an ended execution could not be ended";

/// Everything that can be leased, and what is.
pub(crate) struct Leases {
    state: Mutex<State>,
    journal: Option<Journal>,
    /// Devices, or who holds them, may have changed.
    pub(crate) changed: Notify,
}

struct State {
    pool: Pool,
    survivors: Vec<(Key, Survivor)>,
    records: u64,
}

impl Leases {
    /// `folder` is where leases are written down; none where nothing is to survive.
    pub(crate) fn open(mut pool: Pool, folder: Option<&Path>, instance: &str) -> io::Result<Arc<Self>> {
        let journal = folder.map(|folder| Journal::open(folder, instance)).transpose()?;
        let mut survivors = Vec::new();
        for survivor in journal.as_ref().map(Journal::survivors).transpose()?.unwrap_or_default() {
            let Record { id, attempt, held } = &survivor.record;
            tracing::warn!(id, attempt, ?held, "an execution of an earlier server still holds this");
            survivors.push((pool.restore(id, *attempt, held, SURVIVES), survivor));
        }
        let state = Mutex::new(State { pool, survivors, records: 0 });
        Ok(Arc::new(Self { state, journal, changed: Notify::new() }))
    }

    /// All that `job` asks for, or nothing and why. `None` when it asks for nothing.
    pub(crate) fn acquire(self: &Arc<Self>, job: &Job) -> Result<Option<Leased>, LaunchError> {
        let mut state = self.state();
        let wanted = state
            .pool
            .request(&job.resources)
            .map_err(|wrong| LaunchError::invalid(wrong.field, wrong.message))?;
        if wanted.is_empty() {
            return Ok(None);
        }
        let key = state.pool.lease(&job.id, job.attempt, &wanted).map_err(|shortage| {
            // Whoever sent this counts on more: a device may be gone that nobody was told of.
            self.changed.notify_one();
            let amount = |amount| display(&shortage.name, amount);
            let (want, free) = (amount(shortage.want), amount(shortage.free));
            LaunchError::Busy(format!("{}: {want} asked for, {free} free", shortage.name))
        })?;
        let mut lease = state.pool.held(key);
        // Everybody has a slot, and nobody wants to read of it.
        lease.held.retain(|held| held.resource != names::RUNS);
        lease.held.sort_by(|a, b| a.resource.cmp(&b.resource));
        let entry = match self.record(&mut state, job, &lease.held) {
            Ok(entry) => entry,
            Err(error) => {
                state.pool.release(key);
                return Err(LaunchError::Unavailable(format!("a lease cannot be written down: {error}")));
            }
        };
        let kinds = lease
            .held
            .iter()
            .filter_map(|held| Some((held.resource.clone(), state.pool.kind(&held.resource)?)));
        let allocation = Arc::new(Allocation {
            kinds: kinds.collect(),
            held: lease.held,
            device_paths: lease.device_paths,
            since: Instant::now(),
            until: OnceLock::new(),
            sampled: Mutex::default(),
        });
        drop(state);
        let leased =
            Leased { leases: Arc::clone(self), key, entry, env: lease.env, allocation, given_back: false };
        leased.tell();
        Ok(Some(leased))
    }

    fn record(&self, state: &mut State, job: &Job, held: &[Held]) -> io::Result<Option<Entry>> {
        let Some(journal) = self.journal.as_ref().filter(|_| !held.is_empty()) else { return Ok(None) };
        state.records += 1;
        let record = Record { id: job.id.clone(), attempt: job.attempt, held: held.to_vec() };
        journal.record(state.records, &record).map(Some)
    }

    /// Gives back what executions of earlier servers held and hold no more. False when none is left.
    pub(crate) fn sweep(&self) -> bool {
        let mut state = self.state();
        let State { pool, survivors, .. } = &mut *state;
        let before = survivors.len();
        survivors.retain_mut(|(key, survivor)| {
            let gone = survivor.is_gone();
            if gone {
                pool.release(*key);
            }
            !gone
        });
        if survivors.len() < before {
            self.changed.notify_one();
        }
        !survivors.is_empty()
    }

    /// What Describe says of it.
    pub(crate) fn inventory(&self) -> (Vec<v1::Resource>, Vec<v1::InventoryDevice>) {
        let (offers, devices) = self.state().pool.inventory();
        let offers = offers.into_iter().map(|offer| v1::Resource {
            allocatable: display(&offer.name, offer.allocatable),
            kind: offer.kind.to_string(),
            name: offer.name,
        });
        (offers.collect(), devices.into_iter().map(device).collect())
    }

    /// What Describe says of the figures of leases.
    pub(crate) fn sources(&self) -> Vec<AccountingSource> {
        let (offers, _) = self.state().pool.inventory();
        let leased = offers.iter().filter(|offer| offer.name != names::RUNS);
        leased
            .map(|offer| AccountingSource { figure: figure_name(&offer.name), source: LEASE.into() })
            .collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn device(told: Told) -> v1::InventoryDevice {
    let Told { device, holders } = told;
    let state = match device.health.state {
        HealthState::Healthy => "Healthy",
        HealthState::Quarantined => "Quarantined",
        HealthState::Lost => "Lost",
    };
    let allocation = |(id, attempt, amount): (String, u32, Amount)| v1::DeviceAllocation {
        id,
        attempt,
        amount: amount.to_string(),
    };
    v1::InventoryDevice {
        resource: device.resource,
        id: device.id,
        driver: device.driver,
        model: device.model,
        memory_bytes: device.memory_bytes,
        pci_bus_id: device.pci_bus_id,
        pool: device.pool,
        health: Some(v1::DeviceHealth {
            state: state.into(),
            reason: device.health.reason,
            source: device.health.source,
            since: device.health.since,
        }),
        allocations: holders.into_iter().map(allocation).collect(),
    }
}

/// What one execution holds.
pub(crate) struct Leased {
    leases: Arc<Leases>,
    key: Key,
    entry: Option<Entry>,
    env: Vec<(String, String)>,
    pub(crate) allocation: Arc<Allocation>,
    given_back: bool,
}

impl Leased {
    /// The open file that its supervisor must keep as long as it lives.
    pub(crate) fn lock(&self) -> io::Result<Option<OwnedFd>> {
        self.entry.as_ref().map(|entry| entry.file.try_clone().map(OwnedFd::from)).transpose()
    }

    /// Variables that tell the Run what it holds.
    pub(crate) fn env(&self) -> Vec<(String, String)> {
        let mut env = self.env.clone();
        if !self.allocation.held.is_empty() {
            // Strings always serialize.
            env.push((DEVICES_ENV.into(), serde_json::to_string(&self.allocation.held).unwrap_or_default()));
        }
        env
    }

    /// Asks the providers what was used.
    pub(crate) fn sample(&self) {
        let figures = self.leases.state().pool.sample(self.key);
        *self.allocation.sampled() = figures;
    }

    /// All was done to end its processes: here its bill ends, whatever is still to be tidied up.
    pub(crate) fn ended(&self) {
        let _ = self.allocation.until.set(Instant::now());
    }

    /// Gives everything back: nothing of the execution is left, or nothing was ever started.
    pub(crate) fn give_back(mut self) {
        self.leases.state().pool.release(self.key);
        self.entry = None;
        self.given_back = true;
    }

    fn tell(&self) {
        if self.allocation.held.iter().any(|held| !held.id.is_empty()) {
            self.leases.changed.notify_one();
        }
    }
}

/// Without [`Leased::give_back`] nobody knows whether a process still uses what is held: it stays out of use, and
/// the file stays for a later server, to which the kernel tells whether the supervisor is gone.
impl Drop for Leased {
    fn drop(&mut self) {
        if !self.given_back {
            self.leases.state().pool.strand(self.key, UNPROVEN);
        }
        if let Some(entry) = self.entry.take() {
            entry.leave();
        }
        self.ended();
        self.tell();
    }
}

/// The record of a lease, kept with its execution.
#[derive(Debug)]
pub(crate) struct Allocation {
    pub(crate) held: Vec<Held>,
    pub(crate) device_paths: Vec<PathBuf>,
    kinds: BTreeMap<String, Kind>,
    since: Instant,
    until: OnceLock<Instant>,
    /// What the providers measured last.
    sampled: Mutex<Vec<Figure>>,
}

impl Allocation {
    /// Adds what is held, and what that comes to.
    pub(crate) fn tell(&self, status: &mut StatusResponse, now: Instant) {
        status.devices = self
            .held
            .iter()
            .map(|held| v1::Device {
                resource: held.resource.clone(),
                id: held.id.clone(),
                amount: display(&held.resource, held.amount),
            })
            .collect();
        if let Some(usage) = &mut status.usage {
            usage.figures.extend(self.figures(now));
        }
    }

    /// What is held, amount times the time until `now` or its end, and what the providers measured.
    pub(crate) fn figures(&self, now: Instant) -> Vec<v1::Figure> {
        let until = self.until.get().copied().unwrap_or(now);
        let seconds = (until - self.since).as_secs_f64();
        let mut sums: BTreeMap<&str, Amount> = BTreeMap::new();
        for held in &self.held {
            *sums.entry(&held.resource).or_default() += held.amount;
        }
        let held = sums.into_iter().map(|(name, amount)| v1::Figure {
            name: figure_name(name),
            #[allow(clippy::cast_precision_loss, reason = "a figure has 53 bits")]
            value: amount.nanos() as f64 / 1e9 * seconds,
            unit: self.unit(name).into(),
            source: LEASE.into(),
            scope: Scope::Allocation.into(),
        });
        let sampled = self.sampled();
        let sampled = sampled.iter().map(|figure| v1::Figure {
            name: figure.name.clone(),
            value: figure.value,
            unit: figure.unit.clone(),
            source: figure.source.clone(),
            scope: match figure.scope {
                FigureScope::Attempt => Scope::Attempt,
                FigureScope::Device => Scope::Device,
            }
            .into(),
        });
        held.chain(sampled).collect()
    }

    /// Of an amount times seconds.
    fn unit(&self, name: &str) -> &'static str {
        match self.kinds.get(name) {
            _ if is_bytes(name) => "bytes*s",
            Some(Kind::Divisible) => "1*s",
            _ => "s",
        }
    }

    fn sampled(&self) -> MutexGuard<'_, Vec<Figure>> {
        self.sampled.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `example.com/fpga_held_seconds`: how long how much was held.
fn figure_name(resource: &str) -> String {
    format!("{resource}_held_seconds")
}

#[cfg(test)]
#[path = "leases_tests.rs"]
mod tests;
