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
    /// Variable that tells a Run what it holds: ids joined by commas, or the amount.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub env: Option<String>,
}

/// Names under `/dev` of what every Run has, whatever it leased: programs cannot do without.
pub const PLAIN_DEVICES: &[&str] =
    &["null", "zero", "full", "random", "urandom", "tty", "ptmx", "pts", "mqueue"];

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
}
