//! The control plane: the `scheduler` and the `controller`.
//!
//! Owns the conversation with the Kubernetes API: watches, fenced writes, leader
//! election, metrics. Comes in: watch events and the time. Goes out: status patches
//! of Runs, the objects of a Runtime, deletions. Every decision is made by
//! `kruntimes_core`; a loop here turns watch events into calls to it and its answers
//! into writes. Must always hold: no decision before every initial list is complete,
//! every status write is fenced by uid and resourceVersion, nothing is listed or
//! polled in the steady state, one object that cannot be decoded blinds nobody, and
//! [`events`] are for the unusual: an ordinary Run causes none.

pub mod clock;
pub mod controller;
pub mod events;
pub mod lease;
pub mod options;
mod program;
pub mod scheduler;
pub mod slim;
pub mod watch;
pub mod writer;

#[cfg(test)]
mod names_tests;
