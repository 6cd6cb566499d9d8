//! What the fault tests do to a platform, in the platform's own way.

use std::path::PathBuf;

use crate::Platform;
use crate::process::Process;

/// What is killed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Victim {
    /// The scheduler that leads.
    Scheduler,
    /// The controller.
    Controller,
    /// Every runtimed.
    Runtimed,
    /// Every Runtime Server.
    Server,
    /// What holds the API: the API server, or the local platform, whose Pods end with it.
    Platform,
}

/// A platform whose parts can be killed.
pub trait Hurt: Platform {
    /// Kills a part. All but [`Victim::Platform`] come back by themselves.
    ///
    /// # Errors
    /// When it does not run.
    fn kill(&self, victim: Victim) -> anyhow::Result<()>;

    /// Starts [`Victim::Platform`] again.
    ///
    /// # Errors
    /// When it does not become ready.
    fn restore(&self) -> anyhow::Result<()>;

    /// Whether Pods go on without the API.
    fn pods_outlive_the_api(&self) -> bool;

    /// Whether Pods reach what listens on this machine's loopback.
    fn pods_share_loopback(&self) -> bool;

    /// The folder `/workspace` of a Pod, as this machine sees it.
    fn workspace(&self, pod_uid: &str) -> PathBuf;

    /// Every process of the platform's Pods.
    fn processes(&self) -> Vec<Process>;
}
