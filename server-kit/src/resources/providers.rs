//! The providers that need nothing but a definition.

use std::path::Path;

use super::{
    Amount, Amounts, Definition, Device, Health, HealthState, Held, Inventory, Kind, Lease, Offer,
    ResourceProvider, Shortage,
};
use crate::supervisor::unix_micros;

/// The provider of a definition.
pub(crate) fn defined(definition: Definition) -> Box<dyn ResourceProvider> {
    let Definition { name, kind, amount, devices, env } = definition;
    match kind {
        Kind::Indexed => {
            let devices = if devices.is_empty() {
                (0..amount.as_whole().unwrap_or(0)).map(|index| index.to_string()).collect()
            } else {
                devices
            };
            Box::new(Indexed { env, ..Indexed::new(name, devices) })
        }
        Kind::Counted | Kind::Divisible => {
            Box::new(Quantity { name, kind, total: amount, held: Amount::ZERO, env })
        }
    }
}

/// Devices with an identity, each held by one Run at a time. An id that begins with a slash is the path
/// of the device's file: it must exist, and the Run gets access to it.
#[derive(Debug)]
pub struct Indexed {
    name: String,
    devices: Vec<Slot>,
    env: Option<String>,
}

#[derive(Debug)]
struct Slot {
    id: String,
    taken: bool,
    /// Since when its file is missing.
    lost: Option<i64>,
}

impl Slot {
    fn path(&self) -> Option<&Path> {
        self.id.starts_with('/').then(|| Path::new(&self.id))
    }

    /// Looks whether its file is there.
    fn look(&mut self) {
        let present = self.path().is_none_or(Path::exists);
        self.lost = if present { None } else { self.lost.or_else(|| Some(unix_micros())) };
    }
}

impl Indexed {
    /// Devices by id or by path.
    pub fn new(name: impl Into<String>, devices: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let slot = |id: String| Slot { id, taken: false, lost: None };
        let devices = devices.into_iter().map(|id| slot(id.into())).collect();
        Self { name: name.into(), devices, env: None }
    }

    /// Variable that carries the leased ids, joined by commas.
    #[must_use]
    pub fn env(mut self, variable: impl Into<String>) -> Self {
        self.env = Some(variable.into());
        self
    }

    fn take(&mut self, mut choose: impl FnMut(&Slot) -> bool) -> Lease {
        let mut ids = Vec::new();
        let mut device_paths = Vec::new();
        for slot in self.devices.iter_mut() {
            if choose(slot) {
                slot.taken = true;
                ids.push(slot.id.clone());
                // A link (`/dev/disk/by-id/..`) leads to another device from time to time.
                let path = slot.path().map(|path| path.canonicalize().unwrap_or_else(|_| path.to_owned()));
                device_paths.extend(path);
            }
        }
        let env = self.env.iter().map(|variable| (variable.clone(), ids.join(","))).collect();
        let held = |id| Held { resource: self.name.clone(), id, amount: Amount::ONE };
        Lease { held: ids.into_iter().map(held).collect(), env, device_paths }
    }
}

impl ResourceProvider for Indexed {
    fn discover(&mut self) -> Inventory {
        let mut devices = Vec::with_capacity(self.devices.len());
        for slot in &mut self.devices {
            slot.look();
            let health = slot.lost.map_or_else(Health::default, |since| Health {
                state: HealthState::Lost,
                reason: format!("{} does not exist", slot.id),
                source: "path".into(),
                since,
            });
            devices.push(Device {
                resource: self.name.clone(),
                id: slot.id.clone(),
                health,
                ..Device::default()
            });
        }
        let there = self.devices.iter().filter(|slot| slot.lost.is_none()).count();
        let allocatable = Amount::whole(i64::try_from(there).unwrap_or(i64::MAX));
        Inventory {
            offers: vec![Offer { name: self.name.clone(), kind: Kind::Indexed, allocatable }],
            devices,
        }
    }

    fn lease(&mut self, request: &Amounts) -> Result<Lease, Shortage> {
        let want = request.get(&self.name);
        self.devices.iter_mut().filter(|slot| !slot.taken).for_each(Slot::look);
        let free = self.devices.iter().filter(|slot| !slot.taken && slot.lost.is_none()).count();
        let free = Amount::whole(i64::try_from(free).unwrap_or(i64::MAX));
        if want > free {
            return Err(Shortage { name: self.name.as_str().into(), want, free });
        }
        let mut left = want.ceil();
        Ok(self.take(|slot| {
            let chosen = left > 0 && !slot.taken && slot.lost.is_none();
            left -= i64::from(chosen);
            chosen
        }))
    }

    fn restore(&mut self, held: &[Held]) -> Lease {
        self.take(|slot| held.iter().any(|held| held.id == slot.id))
    }

    fn release(&mut self, lease: &Lease) {
        for slot in &mut self.devices {
            slot.taken &= !lease.held.iter().any(|held| held.id == slot.id);
        }
    }
}

/// An amount without identities: tokens that count, or a quantity that can be divided at will.
#[derive(Debug)]
pub struct Quantity {
    name: String,
    kind: Kind,
    total: Amount,
    held: Amount,
    env: Option<String>,
}

impl Quantity {
    /// Interchangeable tokens.
    pub fn counted(name: impl Into<String>, total: u32) -> Self {
        let total = Amount::whole(total.into());
        Self { name: name.into(), kind: Kind::Counted, total, held: Amount::ZERO, env: None }
    }

    /// Something that can be divided. The Runtime must define it as `Divisible` for Runs to ask for
    /// fractions.
    pub fn divisible(name: impl Into<String>, total: Amount) -> Self {
        Self { name: name.into(), kind: Kind::Divisible, total, held: Amount::ZERO, env: None }
    }

    /// Variable that carries the leased amount, as a plain number.
    #[must_use]
    pub fn env(mut self, variable: impl Into<String>) -> Self {
        self.env = Some(variable.into());
        self
    }

    fn take(&mut self, amount: Amount) -> Lease {
        self.held += amount;
        Lease {
            held: vec![Held { resource: self.name.clone(), id: String::new(), amount }],
            env: self.env.iter().map(|variable| (variable.clone(), amount.to_plain_string())).collect(),
            device_paths: Vec::new(),
        }
    }
}

impl ResourceProvider for Quantity {
    fn discover(&mut self) -> Inventory {
        let offer = Offer { name: self.name.clone(), kind: self.kind, allocatable: self.total };
        Inventory { offers: vec![offer], devices: Vec::new() }
    }

    fn lease(&mut self, request: &Amounts) -> Result<Lease, Shortage> {
        let want = request.get(&self.name);
        let free = self.total - self.held;
        if want > free {
            return Err(Shortage { name: self.name.as_str().into(), want, free });
        }
        Ok(self.take(want))
    }

    fn restore(&mut self, held: &[Held]) -> Lease {
        self.take(held.iter().fold(Amount::ZERO, |sum, held| sum + held.amount))
    }

    fn release(&mut self, lease: &Lease) {
        for held in &lease.held {
            self.held -= held.amount;
        }
    }
}
