//! The pod runner: the containers of Pods as processes of this machine, and their status as a
//! kubelet would write it.
//!
//! What must always hold: no process of a container outlives the platform (see [`init`] and
//! [`isolation`] for how far the kernel lets us promise that); a container is never started while
//! anything of its former start lives; a Pod object goes away only after its processes have.

pub mod container;
mod environment;
pub mod images;
pub mod init;
pub mod isolation;
pub mod logs;
mod notes;
mod probe;
pub mod runner;
mod slot;
mod status;
mod volumes;
mod worker;

use std::net::Ipv4Addr;

use sha2::{Digest, Sha256};

/// The name of the one node.
pub const NODE: &str = "local";

/// The loopback address of a Pod: fixed by its uid, so that neither a restart nor a second platform
/// on this machine gives it to another Pod (12 million addresses, 127.64.0.1 and up).
pub fn pod_ip(uid: &str) -> Ipv4Addr {
    let hash = Sha256::digest(uid.as_bytes());
    Ipv4Addr::new(127, 64 + hash[0] % 191, hash[1], 1 + hash[2] % 254)
}
