//! Following a Run on a person's terminal: its state and its output, until it has ended.
//!
//! [`machine`] decides, synchronously and without a clock; [`driver`] carries out:
//! one watch of the Run, one log stream for each Pod that works for it, ctrl-c, and
//! a timer. [`logs`] reads what `runtimed` prints.

pub mod driver;
pub mod logs;
pub mod machine;
