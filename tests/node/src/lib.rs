//! A real Kubernetes on one machine, for the tests: nothing about Kubernetes is mocked in the suites that count.
//!
//! **Owns** the programs (built from Go modules into a cache outside the checkout), a node's life (up, down, status, exec),
//! the images of the project made from its own Dockerfile, and an API server alone for the suites that need no Pods.
//!
//! **Comes in**: a state folder, the Go module beside this crate, `images/Dockerfile`, the binaries that cargo built.
//! **Goes out**: a kubeconfig that works from the host and inside the node alike, and exit codes.
//!
//! **Always holds**
//! * The node lives in network, mount and PID namespaces of its own. Ending its PID 1 ends every process, mount and interface; `down`
//!   then removes the cgroup folders and the state folder, and nothing is left on the host but the cache and Debian packages.
//! * The API server's port is the same number inside the node's network and on the host's loopback, where a forwarder holds it,
//!   so one kubeconfig serves both sides. Nothing listens on any other address of the host.
//! * A process is signalled only after its start time proved that its id was not given to another one.
//! * Whoever starts an [`ApiServer`] and dies, however suddenly, leaves none behind.
//!
//! A full node needs root and a Debian-like system; the API server alone needs neither.

mod api_server;
mod cli;
mod components;
mod go;
mod host;
mod images;
mod layout;
mod node;
mod other_version;
mod packages;
mod pki;
mod process;

pub use api_server::ApiServer;
pub use cli::{NodeArgs, NodeCommand, main};
pub use go::{cache_folder, ensure_helm, ensure_kubectl, ensure_kubernetes};
pub use images::{IMAGES, Programs, image_name, load};
pub use layout::Mode;
pub use node::{Node, default_folder};
pub use rustix::process::Signal;
