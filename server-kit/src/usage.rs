//! What one attempt used: figures with their unit, source and scope.

use kruntimes_proto::v1::{AccountingSource, Figure, Scope, Usage};

use crate::isolation::GroupCounters;
use crate::supervisor::wire::Counters;

/// What is known of one attempt, by where it is known from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Measured {
    /// Microseconds from the start of its process to its end, or so far.
    pub wall: Option<u64>,
    /// From the supervisor; absent when that was killed.
    pub rusage: Option<Counters>,
    /// From its control groups; empty where it has none.
    pub group: GroupCounters,
    /// Bytes in its folder at most, as far as it was looked at; absent without a limit on them.
    pub storage_peak: Option<u64>,
}

/// Source of figures from two readings of a clock.
const CLOCK: &str = "clock";
/// Source of figures from the counters of the attempt's own control groups: everything that ran in them.
const CGROUP: &str = "cgroup";
/// Source of figures from `getrusage(2)` over everything the supervisor reaped. Processes whose parent
/// ignored SIGCHLD are not in it (the kernel drops theirs).
const RUSAGE: &str = "rusage";
/// As [`RUSAGE`], but only of the largest single process: an upper bound for one, not a sum over the tree.
const RUSAGE_LARGEST: &str = "rusage-largest-process";
/// As [`RUSAGE`], of bytes to block devices: the kernel counts a page of its cache when it is first written to, whether or not it
/// reaches a disk (`folio_account_dirtied`), and what goes past the cache when it is sent.
const RUSAGE_DIRTIED: &str = "rusage-dirtied";
/// Source of figures that were looked at now and then: a peak between two looks is missing.
const SAMPLED: &str = "sampled";

type Value = fn(&Measured) -> Option<f64>;

/// A well-known figure: its name, unit, and its value by source, the best first.
struct Known {
    name: &'static str,
    unit: &'static str,
    sources: &'static [(&'static str, Value)],
}

#[allow(clippy::cast_precision_loss, reason = "53 bits hold any amount of a Run")]
fn plain(value: Option<u64>) -> Option<f64> {
    value.map(|value| value as f64)
}

/// From microseconds.
fn seconds(value: Option<u64>) -> Option<f64> {
    plain(value).map(|micros| micros / 1e6)
}

fn rusage(measured: &Measured, value: fn(&Counters) -> u64) -> Option<u64> {
    measured.rusage.as_ref().map(value)
}

const KNOWN: &[Known] = &[
    Known { name: "wall_seconds", unit: "s", sources: &[(CLOCK, |m| seconds(m.wall))] },
    Known {
        name: "cpu_user_seconds",
        unit: "s",
        sources: &[(CGROUP, |m| seconds(m.group.user)), (RUSAGE, |m| seconds(rusage(m, |c| c.user)))],
    },
    Known {
        name: "cpu_system_seconds",
        unit: "s",
        sources: &[(CGROUP, |m| seconds(m.group.system)), (RUSAGE, |m| seconds(rusage(m, |c| c.system)))],
    },
    Known {
        name: "cpu_throttled_periods",
        unit: "1",
        sources: &[(CGROUP, |m| plain(m.group.throttled_periods))],
    },
    Known { name: "cpu_throttled_seconds", unit: "s", sources: &[(CGROUP, |m| seconds(m.group.throttled))] },
    Known {
        name: "memory_peak_bytes",
        unit: "bytes",
        sources: &[
            (CGROUP, |m| plain(m.group.memory_peak)),
            (RUSAGE_LARGEST, |m| plain(rusage(m, |c| c.peak_bytes))),
        ],
    },
    Known { name: "memory_oom_kills", unit: "1", sources: &[(CGROUP, |m| plain(m.group.oom_kills))] },
    Known {
        name: "block_read_bytes",
        unit: "bytes",
        sources: &[(CGROUP, |m| plain(m.group.read)), (RUSAGE, |m| plain(rusage(m, |c| c.read_bytes)))],
    },
    Known {
        name: "block_write_bytes",
        unit: "bytes",
        sources: &[
            (CGROUP, |m| plain(m.group.written)),
            (RUSAGE_DIRTIED, |m| plain(rusage(m, |c| c.write_bytes))),
        ],
    },
    Known { name: "pids_peak", unit: "1", sources: &[(CGROUP, |m| plain(m.group.pids_peak))] },
    Known { name: "storage_peak_bytes", unit: "bytes", sources: &[(SAMPLED, |m| plain(m.storage_peak))] },
];

/// The record. `whole` is false when a share may be missing: of processes that run or may be left, or of one whose counters
/// nobody has read at its end.
pub(crate) fn record(measured: &Measured, whole: bool) -> Usage {
    let figures = KNOWN.iter().filter_map(|known| {
        let mut values = known.sources.iter().map(|(source, value)| (*source, value(measured)));
        values.find_map(|(source, value)| Some(figure(known.name, value?, known.unit, source)))
    });
    Usage { figures: figures.collect(), incomplete: !whole }
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

/// What Describe says about the figures above, where Runs have groups that count like `group`.
pub(crate) fn sources(group: GroupCounters) -> Vec<AccountingSource> {
    let anything =
        Measured { wall: Some(0), rusage: Some(Counters::default()), group, storage_peak: Some(0) };
    let usage = record(&anything, true);
    usage.figures.into_iter().map(|f| AccountingSource { figure: f.name, source: f.source }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(counters: Counters) -> Measured {
        Measured {
            wall: Some(2_500_000),
            rusage: Some(counters),
            storage_peak: Some(7),
            ..Measured::default()
        }
    }

    #[test]
    fn every_figure_is_announced_with_its_source() {
        let counters = Counters { user: 1_500_000, peak_bytes: 4096, ..Counters::default() };
        let usage = record(&measured(counters), true);
        let told: Vec<_> = usage.figures.iter().map(|f| (f.name.clone(), f.source.clone())).collect();
        let announced = sources(GroupCounters::default()).into_iter().map(|s| (s.figure, s.source));
        assert_eq!(told, announced.collect::<Vec<_>>());
        assert!(!usage.incomplete);
        let value = |name: &str| usage.figures.iter().find(|f| f.name == name).map(|f| f.value);
        assert_eq!(value("wall_seconds"), Some(2.5));
        assert_eq!(value("cpu_user_seconds"), Some(1.5));
    }

    #[test]
    fn the_group_knows_better_than_who_reaped() {
        let group = GroupCounters { user: Some(3_000_000), pids_peak: Some(4), ..GroupCounters::default() };
        let both =
            Measured { group, ..measured(Counters { user: 1, system: 2_000_000, ..Counters::default() }) };
        let usage = record(&both, true);
        let told = |name: &str| {
            let figure = usage.figures.iter().find(|f| f.name == name);
            figure.map(|f| (f.value, f.source.as_str()))
        };
        assert_eq!(told("cpu_user_seconds"), Some((3.0, CGROUP)));
        assert_eq!(told("cpu_system_seconds"), Some((2.0, RUSAGE)));
        assert_eq!(told("pids_peak"), Some((4.0, CGROUP)));
        assert_eq!(told("memory_oom_kills"), None);
    }

    #[test]
    fn a_record_says_whether_it_misses_something() {
        assert!(record(&measured(Counters::default()), false).incomplete);
        let nothing_ran = record(&Measured::default(), true);
        assert!(nothing_ran.figures.is_empty() && !nothing_ran.incomplete);
    }
}
