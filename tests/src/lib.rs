//! The behaviour of the whole product, written once and run in every place.
//!
//! Owns the suites. Comes in: a [`Platform`] (the local one, a real node). Goes
//! out: passed and failed tests. Must always hold: no test depends on another,
//! each works in a namespace of its own, none asserts an absolute time, and every
//! wait has a deadline and says what it waited for.

pub mod cluster;
pub mod harness;
pub mod local;
pub mod process;
pub mod suite;

pub use cluster::Cluster;
pub use harness::{Case, main};
pub use local::Local;

/// A place where the product runs.
pub trait Platform: Send + Sync {
    /// Name in the test's output.
    fn name(&self) -> &'static str;
    /// A kubeconfig with every right.
    fn kubeconfig(&self) -> std::path::PathBuf;
    /// A folder whose name every process of the platform carries in its environment or arguments, and
    /// which every Run can write to; `None` where Runs and tests share no file system.
    fn shared(&self) -> Option<std::path::PathBuf>;
}
