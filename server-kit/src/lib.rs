//! The kit that Runtime Servers are made with.
//!
//! A server author writes how to start the work; everything else is here. This is a whole server:
//!
//! ```no_run
#![doc = include_str!("../examples/hello.rs")]
//! ```
//!
//! Comes in: calls of `executor.v1` (over a unix socket from who proves the token, or plain TCP as
//! the original has it), the author's answers, reports of the processes that supervise Runs. Goes out:
//! processes, states, output, usage records, metrics.
//!
//! | module | owns |
//! |---|---|
//! | `table` | what is known of each execution and what follows from each event; pure |
//! | `engine`, `drive` | the table's lock, one task per execution |
//! | `supervisor` | processes: the nursery, one supervisor per Run, the kill loop, the proof |
//! | `capture` | output: bounds, offsets, tails |
//! | `resources` | what Runs hold: providers, all-or-nothing leases, what survives a restart |
//! | `isolation`, `police`, `usage` | what really holds, what was really used, and how it is known |
//! | `auth`, `gate` | who may call |
//! | `service`, `status`, `request` | the wire |
//! | `trace` | the span of each process |
//! | `run`, `settings` | the program: flags, listeners, the way down |
//!
//! What must always hold: an execution is started at most once; an end is told only after every
//! process of it is gone and its output is read; what is finished is kept until it is forgotten; no
//! level or figure is told that does not hold.

mod auth;
mod author;
mod capture;
mod connections;
mod drive;
mod engine;
mod environment;
mod gate;
mod isolation;
mod metrics;
mod police;
mod probe;
mod request;
pub mod resources;
mod run;
mod server;
mod service;
mod settings;
mod status;
mod supervisor;
mod table;
mod trace;
mod usage;

pub use run::{RunError, run};
pub use server::{Job, Launch, LaunchError, Server};
pub use settings::{Definitions, Settings};
