//! Who holds what of which provider.

use std::collections::BTreeMap;

use kruntimes_resources::{check, is_plain, names};

use super::{
    Amount, Amounts, Definition, Device, Figure, HealthState, Held, Inventory, Kind, Lease, Offer,
    ResourceProvider, Shortage, providers,
};
use crate::request::Invalid;

/// One holder, never used again for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key(u64);

/// Why something is held.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Hold {
    /// By an execution of this server.
    Live,
    /// By processes that are not known to be gone, and why.
    Stuck(String),
}

#[derive(Debug)]
struct Holder {
    id: String,
    attempt: u32,
    hold: Hold,
    /// By index of the provider.
    leases: Vec<(usize, Lease)>,
}

/// A device and who holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Told {
    pub device: Device,
    /// Id, attempt, amount.
    pub holders: Vec<(String, u32, Amount)>,
}

/// All providers, and every lease.
pub(crate) struct Pool {
    providers: Vec<Box<dyn ResourceProvider>>,
    of: BTreeMap<String, (usize, Kind)>,
    holders: BTreeMap<Key, Holder>,
    next: u64,
}

impl Pool {
    /// The author's providers, and one for each definition that none of them has.
    pub(crate) fn new(
        authored: Vec<Box<dyn ResourceProvider>>,
        definitions: Vec<Definition>,
    ) -> Result<Self, String> {
        let mut pool = Self { providers: Vec::new(), of: BTreeMap::new(), holders: BTreeMap::new(), next: 0 };
        for provider in authored {
            pool.add(provider)?;
        }
        let authored = pool.of.clone();
        kruntimes_resources::check_all(&definitions).map_err(|error| error.to_string())?;
        for definition in definitions {
            if !authored.contains_key(&definition.name) {
                pool.add(providers::defined(definition))?;
            }
        }
        Ok(pool)
    }

    fn add(&mut self, mut provider: Box<dyn ResourceProvider>) -> Result<(), String> {
        let Inventory { offers, devices } = provider.discover();
        if let Some(Device { resource, id, .. }) = devices.iter().find(|device| is_plain(&device.id)) {
            return Err(format!(
                "resource {resource:?}: {id} is every Run's: it cannot be given to one alone"
            ));
        }
        for offer in offers {
            let place = (self.providers.len(), offer.kind);
            if self.of.insert(offer.name.clone(), place).is_some() {
                return Err(format!("resource {:?} has two providers", offer.name));
            }
        }
        self.providers.push(provider);
        Ok(())
    }

    pub(crate) fn kind(&self, name: &str) -> Option<Kind> {
        self.of.get(name).map(|(_, kind)| *kind)
    }

    /// What a request asks for. Every name must be known, unless nothing of it is asked for or nothing at all is leased
    /// here; a slot is asked for by everybody.
    pub(crate) fn request(&self, texts: &BTreeMap<String, String>) -> Result<Amounts, Invalid> {
        let mut amounts = Amounts::new();
        if self.of.is_empty() {
            return Ok(amounts);
        }
        for (name, text) in texts {
            let invalid = |message| Invalid { field: format!("resources[{name}]"), message };
            let kind = self.kind(name);
            let amount = check(name, text, kind.unwrap_or(Kind::Divisible));
            let amount = amount.map_err(|error| invalid(error.to_string()))?;
            if amount.is_zero() || (kind.is_none() && name == names::RUNS) {
                continue;
            }
            if kind.is_none() {
                let known: Vec<&str> = self.of.keys().map(String::as_str).collect();
                return Err(invalid(format!("unknown resource; this server has: {}", known.join(", "))));
            }
            amounts.set(name, amount);
        }
        if self.of.contains_key(names::RUNS) && !amounts.has(names::RUNS) {
            amounts.set(names::RUNS, Amount::ONE);
        }
        Ok(amounts)
    }

    /// All of `wanted`, or nothing.
    pub(crate) fn lease(&mut self, id: &str, attempt: u32, wanted: &Amounts) -> Result<Key, Shortage> {
        let mut parts: BTreeMap<usize, Amounts> = BTreeMap::new();
        for (name, amount) in wanted.iter() {
            match self.of.get(&**name) {
                Some((index, _)) => parts.entry(*index).or_default().set(name, amount),
                None => return Err(Shortage { name: name.clone(), want: amount, free: Amount::ZERO }),
            }
        }
        let mut leases: Vec<(usize, Lease)> = Vec::new();
        for (index, part) in parts {
            match self.providers[index].lease(&part) {
                Ok(lease) => leases.push((index, lease)),
                Err(shortage) => {
                    for (index, lease) in &leases {
                        self.providers[*index].release(lease);
                    }
                    return Err(shortage);
                }
            }
        }
        Ok(self.hold(Holder { id: id.to_owned(), attempt, hold: Hold::Live, leases }))
    }

    /// What an execution of an earlier server holds.
    pub(crate) fn restore(&mut self, id: &str, attempt: u32, held: &[Held], reason: &str) -> Key {
        let mut parts: BTreeMap<usize, Vec<Held>> = BTreeMap::new();
        for held in held {
            if let Some((index, _)) = self.of.get(&held.resource) {
                parts.entry(*index).or_default().push(held.clone());
            }
        }
        let leases =
            parts.into_iter().map(|(index, held)| (index, self.providers[index].restore(&held))).collect();
        self.hold(Holder { id: id.to_owned(), attempt, hold: Hold::Stuck(reason.to_owned()), leases })
    }

    fn hold(&mut self, holder: Holder) -> Key {
        let key = Key(self.next);
        self.next += 1;
        self.holders.insert(key, holder);
        key
    }

    /// What `key` holds, of all providers together.
    pub(crate) fn held(&self, key: Key) -> Lease {
        let mut all = Lease::default();
        for (_, lease) in self.holders.get(&key).iter().flat_map(|holder| &holder.leases) {
            all.held.extend(lease.held.iter().cloned());
            all.env.extend(lease.env.iter().cloned());
            all.device_paths.extend(lease.device_paths.iter().cloned());
        }
        all
    }

    pub(crate) fn sample(&mut self, key: Key) -> Vec<Figure> {
        let Some(holder) = self.holders.get(&key) else { return Vec::new() };
        holder.leases.iter().flat_map(|(index, lease)| self.providers[*index].sample(lease)).collect()
    }

    /// Gives everything back; false when that was done before.
    pub(crate) fn release(&mut self, key: Key) -> bool {
        let Some(holder) = self.holders.remove(&key) else { return false };
        for (index, lease) in &holder.leases {
            self.providers[*index].release(lease);
        }
        true
    }

    /// Keeps what `key` holds out of use.
    pub(crate) fn strand(&mut self, key: Key, reason: &str) {
        if let Some(holder) = self.holders.get_mut(&key) {
            holder.hold = Hold::Stuck(reason.to_owned());
        }
    }

    /// What Runs can get, those that have it included, and every device with its holders. What is stuck is not offered.
    pub(crate) fn inventory(&mut self) -> (Vec<Offer>, Vec<Told>) {
        let mut offers = Vec::new();
        let mut devices = Vec::new();
        for provider in &mut self.providers {
            let Inventory { offers: some, devices: more } = provider.discover();
            offers.extend(some);
            devices.extend(more.into_iter().map(|device| Told { device, holders: Vec::new() }));
        }
        // As their providers say: what is not is no part of the offers.
        let healthy: Vec<bool> =
            devices.iter().map(|told: &Told| told.device.health.state == HealthState::Healthy).collect();
        for holder in self.holders.values() {
            for held in holder.leases.iter().flat_map(|(_, lease)| &lease.held) {
                let is_it = |told: &Told| told.device.resource == held.resource && told.device.id == held.id;
                let device = devices.iter().position(is_it);
                let healthy = device.is_none_or(|index| healthy[index]);
                if let Some(offer) = offers.iter_mut().find(|offer| offer.name == held.resource) {
                    match (&holder.hold, healthy) {
                        (Hold::Stuck(_), true) => {
                            offer.allocatable = (offer.allocatable - held.amount).max(Amount::ZERO);
                        }
                        // Whoever counts takes what is held off this.
                        (Hold::Live, false) => offer.allocatable += held.amount,
                        _ => {}
                    }
                }
                let Some(told) = device.map(|index| &mut devices[index]) else { continue };
                told.holders.push((holder.id.clone(), holder.attempt, held.amount));
                if let (Hold::Stuck(reason), true) = (&holder.hold, healthy) {
                    told.device.health.state = HealthState::Quarantined;
                    told.device.health.reason.clone_from(reason);
                    told.device.health.source = "lease".into();
                }
            }
        }
        (offers, devices)
    }
}
