//! One machine as a small Kubernetes: an API server in this process, and a pod runner beside it.
//!
//! **What it owns.** A folder (`data_dir`): the objects in `db.redb`, the `kubeconfig` and
//! `platform.json` by which other programs find it, `credentials.json`, the folders and logs of Pods,
//! the logs of components. One platform per folder, held by a lock.
//!
//! **What comes in.** HTTP requests on a loopback port with the token of the kubeconfig (TLS, as
//! stock clients want it, or plain), the CRDs to serve, the programs that image names stand for.
//!
//! **What goes out.** The Kubernetes API for those kinds and a fixed set of core kinds, good enough
//! for stock `kubectl`; the containers of Pods as processes; the platform's components as processes.
//!
//! **What must always hold.**
//! * It is for one machine and one user: it listens on loopback only, and whoever has the token may do
//!   everything. It is never a production control plane.
//! * An acknowledged write survives a kill of the process; watches lose nothing and say when they must
//!   start over; a restart makes every watch start over.
//! * Where the kernel gives PID namespaces ([`pods::isolation`]), no process started here outlives the
//!   platform, however it ends.
//!
//! **What differs from a real API server**, on purpose: no authorization, no admission webhooks or
//! policies, apply without conflicts (fields that a manager no longer applies are removed, as there),
//! built-in kinds are checked for their types and a few rules only, foreground deletion works like
//! background deletion, the CRDs are given at the start and read-only, lists that come in pieces show
//! the present (and carry the revision of their first piece, so that a watch from it sees the rest).
//!
//! # Embedding
//! The program that starts a platform is also the first process of every container. Its `main` must
//! call [`maybe_container_init`] before anything else, and before any thread:
//!
//! ```no_run
//! # fn run() -> Result<(), Box<dyn std::error::Error>> {
//! kruntimes_local::maybe_container_init();
//! tokio::runtime::Runtime::new()?.block_on(async {
//!     let mut config = kruntimes_local::Config::new("/tmp/example");
//!     config.crds = kruntimes_local::read_documents(&std::fs::read_to_string("crds.yaml")?)?;
//!     let platform = kruntimes_local::Platform::start(config).await?;
//!     println!("KUBECONFIG={}", platform.kubeconfig_path().display());
//!     platform.shutdown(std::time::Duration::from_secs(5)).await;
//!     Ok(())
//! })
//! # }
//! ```

pub mod api;
mod components;
mod controllers;
mod credentials;
mod faults;
mod kinds;
mod object;
mod platform;
pub mod pods;
mod schema;
mod server;
pub mod store;

pub use components::Component;
pub use faults::{FaultPlan, Faults};
pub use platform::{Config, Platform, PlatformError, Status, read_documents};
pub use pods::init::maybe_container_init;
pub use pods::isolation::Isolation;
