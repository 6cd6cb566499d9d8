//! Named quantities: what a Pod offers and what a Run asks for.
//!
//! Owns the arithmetic of Kubernetes quantities ([`Amount`]), how the amounts of a
//! name behave ([`Kind`], [`kind_of`]), maps of them ([`Amounts`]) and what a Pod
//! offers of one ([`Definition`]). Comes in:
//! texts as they stand in manifests. Goes out: exact numbers and errors that name
//! the resource. Must always hold: no rounding below a nano unit, no float, no
//! overflow (amounts saturate at the bounds of the Kubernetes API).

mod amount;
mod amounts;
mod definition;
mod kind;

pub use amount::{Amount, ParseAmountError};
pub use amounts::{Amounts, Shortage};
pub use definition::{Definition, DefinitionError, MAX_DEVICES, PLAIN_DEVICES, check_all, is_plain};
pub use kind::{AmountError, Kind, check, display, is_bytes, kind_of, names};
