//! What Runs hold while they run: devices, tokens, shares of something.
//!
//! A [`ResourceProvider`] knows what there is of one or more resources and which part of it a Run
//! gets. Two ship with the kit: [`Indexed`] for devices with an identity, [`Quantity`] for tokens and
//! divisible amounts; both are made from the Runtime's definitions, or by a server's author.
//! The kit does the rest: an execution starts only when all that it asks for fits at once, holds it
//! until its last process is gone, and gives it back once.
//!
//! | file | owns |
//! |---|---|
//! | `pool` | who holds what; pure |
//! | `journal` | what survives this process: one locked file per execution |
//! | `leases` | both, for the engine: the guard that gives back, the record for the bill |
//!
//! What must always hold: nobody gets a part of what is asked for; the sum of what is held is never
//! above what there is; what may still be used by a process that nobody proved gone is not given out.

mod journal;
mod leases;
mod pool;
mod providers;

use std::path::PathBuf;

pub use kruntimes_resources::{Amount, Amounts, Definition, Kind, Shortage};
use serde::{Deserialize, Serialize};

pub(crate) use leases::{Allocation, Leased, Leases};
pub(crate) use pool::Pool;
pub use providers::{Indexed, Quantity};

/// Something that Runs can ask for by name.
///
/// Calls come one at a time, under a lock that every start waits for: they must be quick. What takes
/// long (asking a driver) belongs into a thread of the provider's own.
pub trait ResourceProvider: Send + 'static {
    /// What there is now. Called at the start, after changes, and every few seconds. The names must
    /// not change between calls; amounts and health may.
    fn discover(&mut self) -> Inventory;

    /// Takes all of `request`, which names only resources of this provider, or nothing.
    ///
    /// # Errors
    /// What there is not enough of.
    fn lease(&mut self, request: &Amounts) -> Result<Lease, Shortage>;

    /// Takes exactly `held` again: an execution of an earlier server still has it. What no longer
    /// exists is left out.
    fn restore(&mut self, held: &[Held]) -> Lease;

    /// What the lease used so far, beside the time that it was held. Called while it runs and once
    /// before [`ResourceProvider::release`].
    fn sample(&mut self, _lease: &Lease) -> Vec<Figure> {
        Vec::new()
    }

    /// Gives the lease back. Called once per lease, when its last process is gone.
    fn release(&mut self, lease: &Lease);
}

/// What a provider has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inventory {
    /// Every resource of the provider.
    pub offers: Vec<Offer>,
    /// Those parts that have an identity.
    pub devices: Vec<Device>,
}

/// One resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Name as requested by Runs.
    pub name: String,
    /// How amounts behave.
    pub kind: Kind,
    /// What can be given to Runs, held or not.
    pub allocatable: Amount,
}

/// One device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Device {
    /// The resource that it counts for.
    pub resource: String,
    /// Unique within the resource.
    pub id: String,
    /// Driver, as far as known.
    pub driver: String,
    /// Model, as far as known.
    pub model: String,
    /// Bytes of its own memory, 0 = none or unknown.
    pub memory_bytes: u64,
    /// PCI address, or empty.
    pub pci_bus_id: String,
    /// Devices of one pool are close to each other.
    pub pool: String,
    /// Whether it can be given out.
    pub health: Health,
}

/// Whether a device serves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// In a word.
    pub state: HealthState,
    /// For a person; empty when healthy.
    pub reason: String,
    /// Who says so, for instance "path".
    pub source: String,
    /// Unix microseconds, 0 = since the start.
    pub since: i64,
}

/// See [`Health`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HealthState {
    /// Serves.
    #[default]
    Healthy,
    /// Kept back until somebody looks.
    Quarantined,
    /// Not there.
    Lost,
}

/// What one execution holds of one provider.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lease {
    /// Each part by name.
    pub held: Vec<Held>,
    /// Variables that tell the Run what it got. They win over the Run's own.
    pub env: Vec<(String, String)>,
    /// Files that the Run must be able to open, for what fences devices.
    pub device_paths: Vec<PathBuf>,
}

/// A device, or an amount of a resource that has none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    /// Resource.
    pub resource: String,
    /// Device id; empty where there is none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub id: String,
    /// How much of it.
    pub amount: Amount,
}

/// A measured value of a lease.
#[derive(Clone, Debug, PartialEq)]
pub struct Figure {
    /// Lower case with underscores; a name with "peak" in it is not summed over attempts.
    pub name: String,
    /// In `unit`.
    pub value: f64,
    /// Base unit: "s", "bytes", "1", "J".
    pub unit: String,
    /// Where the value comes from, for instance "nvml-process".
    pub source: String,
    /// Whether it is the Run's own or the whole device's.
    pub scope: FigureScope,
}

/// What a [`Figure`] covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FigureScope {
    /// The Run alone.
    Attempt,
    /// The device, whoever used it.
    Device,
}
