//! A virtual machine for tests of what this machine's own kernel set-up does not give: cgroup v2 with all its controllers.
//!
//! **Owns** the machine (QEMU without hardware help, Debian's cloud kernel), its disk with the programs and the libraries they
//! need, and the way in and out: arguments and environment in; output, errors and the exit status out.
//!
//! **Comes in**: a program that was built for this machine, arguments, files to take along.
//! **Goes out**: what the program printed, its exit status, or the reason why no machine can be started here.
//!
//! **Always holds**
//! * The machine ends with its program, with its time limit and with whoever started it, however suddenly.
//! * Nothing of one machine is seen by the next: the disk is made anew each time and removed.
//! * What is fetched lies in the cache outside the checkout. The kernel is unpacked there and never installed.
//! * A place that cannot run a machine is told apart from a program that failed.

mod cli;
mod fetch;
mod files;
mod guest;
mod initramfs;
mod job;
mod machine;
mod modules;

pub use cli::{Cli, main};
pub use fetch::Unavailable;
pub use guest::guest_main;
pub use job::Job;
pub use machine::{Machine, Outcome};
