//! Every decision of the control plane and of `runtimed`, as pure functions.
//!
//! Owns what may happen to a Run (`run`), where it goes, when something is lost
//! and what a Runtime consists of. Comes in: objects as they were read, and the
//! time. Goes out: values that somebody else writes. Must always hold: no I/O, no
//! clock, no panics, and a Run's phase, reason and conditions come from
//! [`run::transition`] alone.

pub mod desired;
pub mod ids;
pub mod isolation;
pub mod liveness;
pub mod run;
pub mod runtime_status;
pub mod schedule;
pub mod ttl;
