//! The behaviour of the product, one file per part of it.

pub mod api;
pub mod cancel;
pub mod charts;
pub mod cli;
pub mod faults;
pub mod input;
pub mod installs;
pub mod isolation;
pub mod kubectl;
pub mod ladder;
pub mod lifecycle;
pub mod losses;
pub mod outages;
pub mod pools;
pub mod preflight;
pub mod python;
pub mod resources;
pub mod retry;
pub mod rights;
pub mod scheduling;
pub mod traces;
pub mod trouble;
pub mod upgrade;

use crate::Case;

/// Everything that holds in every place.
pub fn behaviour() -> Vec<Case> {
    let parts = [
        lifecycle::cases(),
        input::cases(),
        retry::cases(),
        cancel::cases(),
        scheduling::cases(),
        resources::cases(),
        python::cases(),
        isolation::cases(),
        cli::cases(),
        kubectl::cases(),
    ];
    parts.into_iter().flatten().collect()
}
