//! What a Pod offers of one resource, as the controller tells it to the Pod's server.

use serde::{Deserialize, Serialize};

use crate::{Amount, Kind};

/// One resource of a Pod. A list of these travels as JSON from the Runtime's controller to the server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Definition {
    /// Name as requested by Runs.
    pub name: String,
    /// How amounts behave.
    pub kind: Kind,
    /// How much there is.
    pub amount: Amount,
    /// Ids or paths of the devices of an indexed resource; empty: they are called 0, 1, 2, ...
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<String>,
    /// Variable that tells a Run what it holds: ids joined by commas, or the amount as a plain number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub env: Option<String>,
}

/// Names under `/dev` of what every Run has, whatever it leased: programs cannot do without.
pub const PLAIN_DEVICES: &[&str] =
    &["null", "zero", "full", "random", "urandom", "tty", "ptmx", "pts", "mqueue"];

/// Devices that a Pod may offer, of all its resources together: as many as its RuntimeInstance has room for.
pub const MAX_DEVICES: usize = 128;

/// Whether `device` is the path of one of the [`PLAIN_DEVICES`].
pub fn is_plain(device: &str) -> bool {
    device.strip_prefix("/dev/").is_some_and(|name| PLAIN_DEVICES.contains(&name))
}

/// Why a definition makes no sense. Permanent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DefinitionError {
    /// Below zero, or a fraction of something that has none.
    #[error("resource {name:?}: {amount} of a resource that is {kind}")]
    Amount {
        /// Resource.
        name: String,
        /// Amount.
        amount: Amount,
        /// Its kind.
        kind: Kind,
    },
    /// Devices of a resource without identities.
    #[error("resource {name:?}: devices go with the kind Indexed, and it is {kind}")]
    NotIndexed {
        /// Resource.
        name: String,
        /// Its kind.
        kind: Kind,
    },
    /// The amount is not the number of devices.
    #[error("resource {name:?}: {amount} in all, but {devices} devices are named")]
    Count {
        /// Resource.
        name: String,
        /// Amount.
        amount: Amount,
        /// How many devices.
        devices: usize,
    },
    /// A device without which programs cannot do.
    #[error("resource {name:?}: device {device:?} is every Run's: it cannot be given to one alone")]
    Plain {
        /// Resource.
        name: String,
        /// Device.
        device: String,
    },
    /// More devices than a Pod may offer.
    #[error("resource {name:?}: with it the Pod has {devices} devices, and it may have {MAX_DEVICES} in all")]
    TooMany {
        /// Resource.
        name: String,
        /// How many devices the Pod has up to this resource.
        devices: i64,
    },
    /// The same device in two resources: two Runs could have it at once.
    #[error("resource {name:?}: device {device:?} is named by {other:?} as well")]
    Shared {
        /// Resource.
        name: String,
        /// Device.
        device: String,
        /// The other resource.
        other: String,
    },
    /// The same device twice.
    #[error("resource {name:?}: device {device:?} is named twice")]
    Twice {
        /// Resource.
        name: String,
        /// Device.
        device: String,
    },
}

impl Definition {
    /// Whether it makes sense in itself.
    ///
    /// # Errors
    /// What is wrong, with the resource's name.
    pub fn check(&self) -> Result<(), DefinitionError> {
        let (name, kind, amount) = (self.name.clone(), self.kind, self.amount);
        let fraction = kind != Kind::Divisible && amount.as_whole().is_none();
        if amount.is_negative() || fraction {
            return Err(DefinitionError::Amount { name, amount, kind });
        }
        if self.devices.is_empty() {
            return Ok(());
        }
        if kind != Kind::Indexed {
            return Err(DefinitionError::NotIndexed { name, kind });
        }
        if amount.as_whole() != i64::try_from(self.devices.len()).ok() {
            return Err(DefinitionError::Count { name, amount, devices: self.devices.len() });
        }
        if let Some(device) = self.devices.iter().find(|device| is_plain(device)) {
            return Err(DefinitionError::Plain { name, device: device.clone() });
        }
        let twice = |index: &usize| self.devices[..*index].contains(&self.devices[*index]);
        match (0..self.devices.len()).find(twice) {
            Some(index) => Err(DefinitionError::Twice { name, device: self.devices[index].clone() }),
            None => Ok(()),
        }
    }
}

/// Whether everything that one Pod offers makes sense, each by itself and together.
///
/// # Errors
/// The first that is wrong, with the resource's name.
pub fn check_all(definitions: &[Definition]) -> Result<(), DefinitionError> {
    let mut devices = 0_i64;
    for (index, definition) in definitions.iter().enumerate() {
        definition.check()?;
        let name = || definition.name.clone();
        if definition.kind == Kind::Indexed {
            devices = devices.saturating_add(definition.amount.ceil());
            if usize::try_from(devices).is_ok_and(|devices| devices > MAX_DEVICES) {
                return Err(DefinitionError::TooMany { name: name(), devices });
            }
        }
        // Ids are the resource's own, paths are the node's.
        for device in definition.devices.iter().filter(|device| device.starts_with('/')) {
            if let Some(other) = definitions[..index].iter().find(|other| other.devices.contains(device)) {
                let other = other.name.clone();
                return Err(DefinitionError::Shared { name: name(), device: device.clone(), other });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition(kind: Kind, amount: Amount, devices: &[&str]) -> Definition {
        let devices = devices.iter().map(ToString::to_string).collect();
        Definition { name: "example.com/x".into(), kind, amount, devices, env: None }
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        assert_eq!(definition(Kind::Indexed, Amount::whole(2), &["a", "b"]).check(), Ok(()));
        assert_eq!(definition(Kind::Indexed, Amount::whole(2), &[]).check(), Ok(()));
        assert_eq!(definition(Kind::Divisible, Amount::milli(1), &[]).check(), Ok(()));
        for (bad, word) in [
            (definition(Kind::Counted, Amount::milli(500), &[]), "500m"),
            (definition(Kind::Divisible, Amount::whole(-1), &[]), "-1"),
            (definition(Kind::Counted, Amount::ONE, &["a"]), "Indexed"),
            (definition(Kind::Indexed, Amount::ONE, &["a", "b"]), "2 devices"),
            (definition(Kind::Indexed, Amount::whole(2), &["a", "a"]), "\"a\""),
        ] {
            let error = bad.check().expect_err(word).to_string();
            assert!(error.contains(word) && error.contains("example.com/x"), "{error}");
        }
    }

    #[test]
    fn what_makes_no_sense_together_is_named() {
        let named = |name: &str, definition: Definition| Definition { name: name.into(), ..definition };
        let two =
            |a, b| check_all(&[named("x.org/a", a), named("x.org/b", b)]).map_err(|error| error.to_string());
        let devices = |ids: &[&str]| definition(Kind::Indexed, Amount::whole(ids.len() as i64), ids);
        let many = |count| definition(Kind::Indexed, Amount::whole(count), &[]);
        assert_eq!(two(devices(&["0", "/dev/a"]), devices(&["0", "/dev/b"])), Ok(()));
        assert_eq!(two(many(64), many(64)), Ok(()));
        let shared = two(devices(&["/dev/a"]), devices(&["/dev/b", "/dev/a"])).unwrap_err();
        assert!(["x.org/a", "x.org/b", "/dev/a"].iter().all(|word| shared.contains(word)), "{shared}");
        let many = two(many(64), many(i64::MAX)).unwrap_err();
        assert!(many.contains("x.org/b") && many.contains("128"), "{many}");
    }
}
