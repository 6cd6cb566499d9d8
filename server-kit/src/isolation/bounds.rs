//! From the ceilings of a request to numbers that the kernel takes.

use std::collections::BTreeMap;

use kruntimes_proto::v1::StopCause;
use kruntimes_resources::{Amount, Kind, check, display, names};

use super::ConfineError;
use super::stored::Unmeasured;

/// The ceilings of one Run; `None` is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bounds {
    pub cpu: Option<Amount>,
    /// Its part of the CPU when there is not enough for all, from the request: as version 1 counts, 2..=262144.
    pub cpu_shares: Option<u64>,
    /// Bytes.
    pub memory: Option<u64>,
    pub pids: Option<u64>,
    /// Bytes in its folder, and in the `/tmp` and `/dev/shm` that are its own.
    pub storage: Option<u64>,
    /// Reads, and as many writes, a second on the disk of its working directory: what it leased.
    pub iops: Option<u64>,
}

/// A bound that a Run broke: it ends, and this is why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Breach {
    pub cause: StopCause,
    pub message: String,
}

/// So that what has grown to a bound is seen to be more than the limit.
const MARGIN: u64 = 1 << 20;
/// Of a Run without a limit on memory: it meets this bound before it hurts the Pod.
pub(super) const ROOM: u64 = 1 << 30;
/// The usual period of CPU quotas, microseconds.
const PERIOD: u64 = 100_000;
/// The longest that the kernel takes.
const LONG_PERIOD: u64 = 1_000_000;
/// The smallest quota that the kernel takes.
const SMALLEST_QUOTA: u64 = 1000;

impl Bounds {
    /// Reads `limits` and, for the part of the CPU, `requests`. Names that nothing here bounds are others' matter.
    pub(crate) fn read(
        limits: &BTreeMap<String, String>,
        requests: &BTreeMap<String, String>,
    ) -> Result<Self, ConfineError> {
        let limit = |name| amount("limits", limits, name);
        let whole = |name| -> Result<Option<u64>, ConfineError> {
            Ok(limit(name)?.map(|amount| amount.ceil().unsigned_abs()))
        };
        let request = amount("resources", requests, names::CPU)?;
        let bounds = Self {
            cpu: limit(names::CPU)?,
            cpu_shares: request.map(|cpu| (millis(cpu).saturating_mul(1024) / 1000).clamp(2, 262_144)),
            memory: whole(names::MEMORY)?,
            pids: whole(names::PIDS)?,
            storage: whole(names::EPHEMERAL_STORAGE)?,
            iops: amount("resources", requests, names::STORAGE_IOPS)?
                .filter(|amount| amount.is_positive())
                .map(|amount| amount.ceil().unsigned_abs()),
        };
        Ok(bounds)
    }

    /// The largest size that a file may have.
    pub(super) fn file(&self) -> Option<u64> {
        Some(self.storage?.saturating_add(MARGIN))
    }

    /// Bytes that a private `/tmp` or `/dev/shm` may hold: it is memory, and counts as storage as well.
    pub(super) fn room(&self) -> u64 {
        let memory = self.memory.map_or(ROOM, |limit| limit.saturating_add(MARGIN));
        self.file().map_or(memory, |storage| memory.min(storage))
    }

    /// Quota and period in microseconds.
    pub(super) fn cpu_quota(&self) -> Option<(u64, u64)> {
        let quota_in = |period: u64| millis(self.cpu?).checked_mul(period).map(|micros| micros / 1000);
        match quota_in(PERIOD)? {
            quota if quota >= SMALLEST_QUOTA => Some((quota, PERIOD)),
            _ => Some((quota_in(LONG_PERIOD)?.max(SMALLEST_QUOTA), LONG_PERIOD)),
        }
    }

    /// `own` is false when not this limit was reached but one above it, such as the Pod's.
    pub(crate) fn out_of_memory(&self, peak: Option<u64>, own: bool) -> Breach {
        let message = match (self.memory, own) {
            (Some(limit), true) => exceeded("memory", limit, peak, names::MEMORY),
            _ => format!(
                "the Pod's memory is used up, and the kernel ended this Run to free some{}",
                peak.map_or_else(String::new, |peak| format!(" (peak {})", told(names::MEMORY, peak)))
            ),
        };
        Breach { cause: StopCause::OutOfMemory, message }
    }

    pub(crate) fn too_many_processes(&self, peak: Option<u64>) -> Breach {
        let limit = self.pids.unwrap_or_default();
        Breach { cause: StopCause::PidsExceeded, message: exceeded("processes", limit, peak, names::PIDS) }
    }

    pub(crate) fn too_much_storage(&self, used: Option<u64>) -> Breach {
        let limit = self.storage.unwrap_or_default();
        let message = exceeded("ephemeral storage", limit, used, names::EPHEMERAL_STORAGE);
        Breach { cause: StopCause::StorageExceeded, message }
    }

    /// What it has stored cannot be measured.
    pub(crate) fn unmeasured_storage(&self, why: Unmeasured) -> Breach {
        let limit = told(names::EPHEMERAL_STORAGE, self.storage.unwrap_or_default());
        let message = format!(
            "what is stored cannot be held to the limit of {limit} on ephemeral storage: {}",
            why.why()
        );
        Breach { cause: StopCause::StorageExceeded, message }
    }

    /// The kernel ended it for a file that was to grow beyond the limit.
    pub(crate) fn too_large_a_file(&self, used: Option<u64>) -> Breach {
        let told = |bytes| told(names::EPHEMERAL_STORAGE, bytes);
        let limit = told(self.storage.unwrap_or_default());
        let peak = used.map_or_else(|| "unknown".to_owned(), told);
        let message =
            format!("a file was to grow beyond the limit of {limit} on ephemeral storage; peak {peak}");
        Breach { cause: StopCause::StorageExceeded, message }
    }
}

fn exceeded(what: &str, limit: u64, peak: Option<u64>, name: &str) -> String {
    let peak = peak.map_or_else(|| "unknown".to_owned(), |peak| told(name, peak));
    format!("more {what} wanted than the limit of {}; peak {peak}", told(name, limit))
}

fn told(name: &str, amount: u64) -> String {
    let whole = i64::try_from(amount).unwrap_or(i64::MAX);
    let text = display(name, Amount::whole(whole));
    if text == whole.to_string() || name == names::PIDS { text } else { format!("{text} ({whole} bytes)") }
}

fn millis(amount: Amount) -> u64 {
    u64::try_from(amount.nanos() / 1_000_000).unwrap_or(u64::MAX)
}

/// Zero is no limit that anything could run under: it is refused like what cannot be read.
fn amount(
    field: &str,
    amounts: &BTreeMap<String, String>,
    name: &str,
) -> Result<Option<Amount>, ConfineError> {
    let Some(text) = amounts.get(name) else { return Ok(None) };
    let invalid = |message| ConfineError::Invalid { field: format!("{field}[{name}]"), message };
    let kind = if name == names::PIDS { Kind::Counted } else { Kind::Divisible };
    let amount = check(name, text, kind).map_err(|error| invalid(error.to_string()))?;
    if field == "limits" && !amount.is_positive() {
        return Err(invalid(format!("{text:?} leaves nothing to run with")));
    }
    Ok(Some(amount))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bounds(limits: &[(&str, &str)], requests: &[(&str, &str)]) -> Result<Bounds, ConfineError> {
        let map = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
        };
        Bounds::read(&map(limits), &map(requests))
    }

    #[test]
    fn quantities_become_numbers() {
        let limits = [("cpu", "1500m"), ("memory", "64Mi"), ("pids", "20"), ("ephemeral-storage", "1G")];
        let read = bounds(&limits, &[("cpu", "500m")]).expect("valid");
        assert_eq!((read.memory, read.pids, read.storage), (Some(64 << 20), Some(20), Some(1_000_000_000)));
        assert_eq!((read.cpu_quota(), read.cpu_shares), (Some((150_000, 100_000)), Some(512)));
        for much in ["20P", "1e30"] {
            assert_eq!(bounds(&[], &[("cpu", much)]).expect("valid").cpu_shares, Some(262_144), "{much}");
        }
        assert_eq!(bounds(&[("example.com/tokens", "x")], &[]).expect("others"), Bounds::default());
    }

    #[test]
    fn what_was_leased_of_the_disk_is_a_bound() {
        let iops = |text| bounds(&[], &[("kruntimes.io/storage-iops", text)]).map(|bounds| bounds.iops).ok();
        assert_eq!((iops("5k"), iops("500m"), iops("0")), (Some(Some(5000)), Some(Some(1)), Some(None)));
        assert_eq!(iops("many"), None);
    }

    #[test]
    fn the_smallest_cpu_limits_get_a_longer_period() {
        let quota = |text| bounds(&[("cpu", text)], &[]).expect("valid").cpu_quota();
        assert_eq!(quota("10m"), Some((1000, 100_000)));
        assert_eq!(quota("5m"), Some((5000, 1_000_000)));
        assert_eq!(quota("100u"), Some((1000, 1_000_000)));
    }

    #[test]
    fn what_cannot_be_a_limit_names_its_field() {
        for (name, text) in [("memory", "lots"), ("memory", "0"), ("cpu", "-1"), ("pids", "1500m")] {
            let error = bounds(&[(name, text)], &[]).expect_err(text).to_string();
            assert!(error.starts_with(&format!("limits[{name}]: ")), "{error}");
        }
        assert!(bounds(&[], &[("cpu", "0")]).is_ok());
    }

    #[test]
    fn what_is_memory_and_storage_has_the_smaller_bound() {
        let room = |limits: &[(&str, &str)]| bounds(limits, &[]).expect("valid").room();
        let mib = 1 << 20;
        assert_eq!(room(&[]), 1024 * mib);
        assert_eq!(room(&[("memory", "4Gi")]), 4097 * mib);
        assert_eq!(room(&[("memory", "64Mi"), ("ephemeral-storage", "4Mi")]), 5 * mib);
        assert_eq!(room(&[("ephemeral-storage", "100Gi")]), 1024 * mib, "no more memory for it");
    }

    #[test]
    fn a_breach_tells_limit_and_peak() {
        let limits = bounds(&[("memory", "64Mi"), ("pids", "20")], &[]).expect("valid");
        let told = limits.out_of_memory(Some(64 << 20), true);
        assert_eq!(told.cause, StopCause::OutOfMemory);
        assert!(told.message.contains("limit of 64Mi"), "{}", told.message);
        assert!(told.message.contains("peak 64Mi (67108864 bytes)"), "{}", told.message);
        let pids = limits.too_many_processes(Some(20)).message;
        assert_eq!(pids, "more processes wanted than the limit of 20; peak 20");
        assert!(limits.out_of_memory(None, false).message.contains("the Pod's memory"));
    }
}
