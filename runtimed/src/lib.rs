//! The sidecar of a Runtime Pod: carries out the Runs that are bound to its Pod.
//!
//! Owns everything between the Kubernetes API and the Runtime Server of one Pod: the
//! watch over its Runs, sources and workspaces, deadlines, cancellation, outputs, logs,
//! the status of each attempt, the heartbeat and the Pod's RuntimeInstance. Comes in:
//! Runs, and what the server says. Goes out: status patches, calls to the server, the
//! Runs' output on standard output (its own log goes to standard error).
//!
//! [`engine`] decides, everything else carries out. Must always hold: a status is written
//! only through `kruntimes_core::run::transition`, fenced; an execution that may be alive
//! is never started a second time; nothing of an attempt is left behind.

pub mod app;
pub mod config;
pub mod engine;
pub mod kubernetes;
pub mod logs;
pub mod metrics;
mod run;
pub mod server;
pub mod source;
mod stop;
#[cfg(test)]
mod tests;
pub mod text;
pub mod traces;
pub mod work;
pub mod workspace;

pub use config::Config;
pub use run::{RunError, run};
