//! How amounts of a resource behave.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Amount, ParseAmountError};

/// Names that have a meaning of their own.
pub mod names {
    /// Slots of a Pod; every Run takes at least one.
    pub const RUNS: &str = "runs";
    /// Cores.
    pub const CPU: &str = "cpu";
    /// Bytes.
    pub const MEMORY: &str = "memory";
    /// Bytes of disk.
    pub const EPHEMERAL_STORAGE: &str = "ephemeral-storage";
    /// Processes (a limit only).
    pub const PIDS: &str = "pids";
    /// Bytes of a GPU's memory.
    pub const GPU_MEMORY: &str = "kruntimes.io/gpu-memory";
    /// Reads, and as many writes, a second on the disk of a Run's folder.
    pub const STORAGE_IOPS: &str = "kruntimes.io/storage-iops";
    /// Bits or bytes a second, as the Runtime's author counts; accounted only.
    pub const NETWORK_BANDWIDTH: &str = "kruntimes.io/network-bandwidth";
}

/// How amounts of a resource behave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Kind {
    /// Devices with identity; whole numbers.
    Indexed,
    /// Interchangeable tokens; whole numbers.
    Counted,
    /// Any quantity.
    Divisible,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Indexed => "Indexed",
            Self::Counted => "Counted",
            Self::Divisible => "Divisible",
        })
    }
}

/// Well-known names whose amounts are divisible.
const DIVISIBLE: [&str; 6] = [
    names::CPU,
    names::MEMORY,
    names::EPHEMERAL_STORAGE,
    names::GPU_MEMORY,
    names::STORAGE_IOPS,
    names::NETWORK_BANDWIDTH,
];
/// Those of them that count bytes.
const BYTES: [&str; 3] = [names::MEMORY, names::EPHEMERAL_STORAGE, names::GPU_MEMORY];

/// The kind of a name that no Runtime defines: divisible for the well-known ones, else counted.
pub fn kind_of(name: &str) -> Kind {
    if DIVISIBLE.contains(&name) { Kind::Divisible } else { Kind::Counted }
}

/// Whether amounts of `name` are bytes.
pub fn is_bytes(name: &str) -> bool {
    BYTES.contains(&name)
}

/// `amount` as a person writes amounts of `name`: bytes in binary suffixes, all else decimal.
pub fn display(name: &str, amount: Amount) -> String {
    if is_bytes(name) { amount.to_binary_string() } else { amount.to_string() }
}

/// Why an amount cannot be asked for. Permanent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AmountError {
    /// Not a quantity.
    #[error("resource {name:?}: {source}")]
    Malformed {
        /// Resource.
        name: String,
        /// Why.
        source: ParseAmountError,
    },
    /// Below zero.
    #[error("resource {name:?}: {amount} is negative")]
    Negative {
        /// Resource.
        name: String,
        /// Amount.
        amount: Amount,
    },
    /// A fraction of something that has none.
    #[error("resource {name:?}: {amount} is not a whole number, and {name} is {kind}")]
    Fraction {
        /// Resource.
        name: String,
        /// Amount.
        amount: Amount,
        /// Its kind.
        kind: Kind,
    },
}

/// Reads `text` as an amount of `name` of the given kind.
///
/// # Errors
/// When it is no quantity, negative, or a fraction of an indexed or counted resource.
pub fn check(name: &str, text: &str, kind: Kind) -> Result<Amount, AmountError> {
    let amount: Amount =
        text.parse().map_err(|source| AmountError::Malformed { name: name.to_owned(), source })?;
    if amount.is_negative() {
        return Err(AmountError::Negative { name: name.to_owned(), amount });
    }
    match kind {
        Kind::Indexed | Kind::Counted if amount.as_whole().is_none() => {
            Err(AmountError::Fraction { name: name.to_owned(), amount, kind })
        }
        Kind::Indexed | Kind::Counted | Kind::Divisible => Ok(amount),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_resources_refuse_fractions_by_name() {
        assert_eq!(check("runs", "2", Kind::Counted), Ok(Amount::whole(2)));
        assert_eq!(check("nvidia.com/gpu", "1e0", Kind::Indexed), Ok(Amount::ONE));
        let error = check("nvidia.com/gpu", "0.5", kind_of("nvidia.com/gpu")).expect_err("a fraction");
        assert_eq!(
            error.to_string(),
            "resource \"nvidia.com/gpu\": 500m is not a whole number, and nvidia.com/gpu is Counted"
        );
        assert_eq!(check("cpu", "0.5", kind_of("cpu")), Ok(Amount::milli(500)));
        assert!(matches!(check("cpu", "-1", kind_of("cpu")), Err(AmountError::Negative { .. })));
        let error = check("memory", "lots", kind_of("memory")).expect_err("no quantity").to_string();
        assert!(error.contains("memory") && error.contains("lots"), "{error}");
    }

    #[test]
    fn bytes_are_written_in_binary() {
        assert_eq!(display("memory", Amount::whole(2 << 30)), "2Gi");
        assert_eq!(display("cpu", Amount::milli(1500)), "1500m");
    }
}
