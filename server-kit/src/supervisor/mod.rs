//! One small process per Run, the proof that nothing of a Run is left.
//!
//! ```text
//!  server ──socket──> nursery ──fork──> supervisor ──vfork+exec──> the Run's command
//!     '───────────── control socket ───────'                          '── its children ...
//! ```
//!
//! The kit re-executes itself once as the *nursery*: one thread, no tokio, a few hundred
//! KiB of its own. The nursery forks *supervisors* ahead of need, so that starting a Run
//! costs one message to an idle supervisor and one `vfork` from a tiny process. A supervisor
//! is session leader and child subreaper, starts one command, passes signals on, and at the end
//! stops, kills and reaps every descendant until the kernel says `ECHILD`.
//!
//! What must always hold: no process of a Run outlives its supervisor's report; when the server
//! dies, each supervisor sees the end of its control socket and kills its tree; when a
//! supervisor is killed, the nursery inherits its tree, kills that and tells the server.

mod child;
mod clone;
mod command;
mod group;
mod nursery;
mod pool;
mod sys;
mod tree;
pub(crate) mod wire;

pub(crate) use nursery::{MARKER, nursery_main};
pub(crate) use pool::{Control, Pool, Streams, memory_file};
pub(crate) use sys::{protect_process, raise_descriptors, unix_micros};
pub(crate) use tree::parent_of;
