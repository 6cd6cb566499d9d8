//! The behaviour of the whole product, written once and run in every place.
//!
//! Owns the suites. Comes in: a [`Platform`] (the local one, a real node). Goes
//! out: passed and failed tests. Must always hold: no test depends on another,
//! each works in a namespace of its own, none asserts an absolute time, and every
//! wait has a deadline and says what it waited for.

pub mod api_only;
pub mod cluster;
pub mod collector;
pub mod harness;
pub mod hurt;
pub mod local;
pub mod node;
pub mod origin;
pub mod process;
pub mod suite;

pub use api_only::ApiOnly;
pub use cluster::Cluster;
pub use harness::{Case, Stage, main};
pub use hurt::{Hurt, Victim};
pub use local::Local;
pub use node::RealNode;

/// A place where the product runs.
pub trait Platform: Send + Sync {
    /// Name in the test's output.
    fn name(&self) -> &'static str;
    /// A kubeconfig with every right.
    fn kubeconfig(&self) -> std::path::PathBuf;
    /// A folder of this machine that Runs can write to, where Runs and tests share a file system.
    fn shared(&self) -> Option<std::path::PathBuf>;
    /// Where a volume of the host shows that folder to Pods.
    fn shared_mount(&self) -> Option<std::path::PathBuf>;
    /// Takes down what dropping it would, and says what is left of it.
    ///
    /// # Errors
    /// When something is.
    fn stop(&self) -> anyhow::Result<()> {
        Ok(())
    }
    /// A stock kubectl: the one that the environment names.
    fn kubectl(&self) -> Option<std::path::PathBuf> {
        std::env::var_os("KUBECTL").map(std::path::PathBuf::from)
    }
}
