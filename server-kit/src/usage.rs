//! What one attempt used: figures with their unit, source and scope.

use kruntimes_proto::v1::{AccountingSource, Figure, Scope, Usage};

use crate::supervisor::wire::Counters;

/// Source of figures from the two clock readings of a supervisor.
const CLOCK: &str = "clock";
/// Source of figures from `getrusage(2)` over everything the supervisor reaped. Processes whose parent
/// ignored SIGCHLD are not in it (the kernel drops theirs).
const RUSAGE: &str = "rusage";
/// As [`RUSAGE`], but only of the largest single process: an upper bound for one, not a sum over the tree.
const RUSAGE_LARGEST: &str = "rusage-largest-process";

/// A well-known figure: its name, unit, source, and value from the counters.
struct Known {
    name: &'static str,
    unit: &'static str,
    source: &'static str,
    value: fn(&Counters) -> f64,
}

#[allow(clippy::cast_precision_loss, reason = "53 bits hold any amount of a Run")]
const KNOWN: &[Known] = &[
    Known { name: "cpu_user_seconds", unit: "s", source: RUSAGE, value: |c| c.user as f64 / 1e6 },
    Known { name: "cpu_system_seconds", unit: "s", source: RUSAGE, value: |c| c.system as f64 / 1e6 },
    Known {
        name: "memory_peak_bytes",
        unit: "bytes",
        source: RUSAGE_LARGEST,
        value: |c| c.peak_bytes as f64,
    },
    Known { name: "block_read_bytes", unit: "bytes", source: RUSAGE, value: |c| c.read_bytes as f64 },
    Known { name: "block_write_bytes", unit: "bytes", source: RUSAGE, value: |c| c.write_bytes as f64 },
];
const WALL: &str = "wall_seconds";

/// The record. `until` is the end, or now; times in Unix microseconds. `proven` is false when processes
/// may be left whose share is missing.
pub(crate) fn record(started_at: i64, until: i64, counters: Option<&Counters>, proven: bool) -> Usage {
    #[allow(clippy::cast_precision_loss, reason = "a duration in microseconds is far below 2^53")]
    let wall = until.saturating_sub(started_at).max(0) as f64 / 1e6;
    let mut figures = vec![figure(WALL, wall, "s", CLOCK)];
    if let Some(counters) = counters {
        let known =
            KNOWN.iter().map(|known| figure(known.name, (known.value)(counters), known.unit, known.source));
        figures.extend(known);
    }
    Usage { figures, incomplete: counters.is_none() || !proven }
}

fn figure(name: &str, value: f64, unit: &str, source: &str) -> Figure {
    Figure {
        name: name.to_owned(),
        value,
        unit: unit.to_owned(),
        source: source.to_owned(),
        scope: Scope::Attempt.into(),
    }
}

/// What Describe says about the figures above.
pub(crate) fn sources() -> Vec<AccountingSource> {
    let all = [(WALL, CLOCK)].into_iter().chain(KNOWN.iter().map(|known| (known.name, known.source)));
    all.map(|(figure, source)| AccountingSource { figure: figure.to_owned(), source: source.to_owned() })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_figure_is_announced_with_its_source() {
        let counters = Counters { user: 1_500_000, peak_bytes: 4096, ..Counters::default() };
        let usage = record(1_000_000, 3_500_000, Some(&counters), true);
        let told: Vec<_> = usage.figures.iter().map(|f| (f.name.clone(), f.source.clone())).collect();
        let announced: Vec<_> = sources().into_iter().map(|s| (s.figure, s.source)).collect();
        assert_eq!(told, announced);
        assert!(!usage.incomplete);
        let value = |name: &str| usage.figures.iter().find(|f| f.name == name).map(|f| f.value);
        assert_eq!(value("wall_seconds"), Some(2.5));
        assert_eq!(value("cpu_user_seconds"), Some(1.5));
    }

    #[test]
    fn a_record_without_counters_says_that_it_misses_something() {
        assert!(record(0, 1, None, true).incomplete);
        assert!(record(0, 1, Some(&Counters::default()), false).incomplete);
    }
}
