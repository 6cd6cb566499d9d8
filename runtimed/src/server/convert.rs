//! From the wire to our words, in one place.

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kruntimes_api::bounds::FIGURES;
use kruntimes_api::run::{BackendStatus, DeviceHeld, Figure, IsolationAxis, IsolationLevel};
use kruntimes_core::ids::RunUid;
use kruntimes_core::run::AttemptUsage;
use kruntimes_proto::v1::{self, StopCause};

use super::{End, Execution, ExecutionState, StreamName};
use crate::text::{self, cut, first_bytes};

/// The error text by which a baseline server tells of a timeout.
const BASELINE_TIMEOUT: &str = "timeout";

/// Entries of `status.devices`, of the figures of a record, and of `status.isolation` that the kind has room for.
const MAX_DEVICES: usize = 128;
const MAX_AXES: usize = 16;

impl From<v1::StatusResponse> for Execution {
    fn from(wire: v1::StatusResponse) -> Self {
        let of = (wire.attempt > 0).then(|| {
            (
                i32::try_from(wire.attempt).unwrap_or(i32::MAX),
                i64::try_from(wire.assignment).unwrap_or(i64::MAX),
            )
        });
        Self {
            id: RunUid::from(wire.id.as_str()),
            of,
            started_at: time(wire.started_at),
            usage: wire.usage.as_ref().map(usage),
            devices: wire.devices.iter().take(MAX_DEVICES).map(device).collect(),
            isolation: wire.isolation.as_ref().map(isolation_axes).unwrap_or_default(),
            backend: wire.backend.as_ref().map(backend),
            state: state(wire),
        }
    }
}

fn state(wire: v1::StatusResponse) -> ExecutionState {
    let succeeded = match wire.state() {
        v1::ExecutionState::Unspecified | v1::ExecutionState::Pending => return ExecutionState::Pending,
        v1::ExecutionState::Running => return ExecutionState::Running,
        v1::ExecutionState::Succeeded => true,
        v1::ExecutionState::Failed => false,
    };
    let baseline_timeout = wire.exit_code == -1 && wire.error_message == BASELINE_TIMEOUT;
    let cause = match wire.stop_cause() {
        StopCause::Unspecified if baseline_timeout && !succeeded => StopCause::Timeout,
        known => known,
    };
    ExecutionState::Ended(Box::new(End {
        succeeded,
        exit_code: wire.exit_code,
        signal: wire.signal,
        cause,
        finished_at: time(wire.finished_at),
        message: wire.error_message,
        stdout_tail: wire.stdout,
        stderr_tail: wire.stderr,
    }))
}

/// Microseconds since the epoch; 0 is "not yet".
pub(super) fn time(micros: i64) -> Option<Timestamp> {
    (micros > 0).then(|| Timestamp::from_microsecond(micros).ok()).flatten()
}

fn usage(wire: &v1::Usage) -> AttemptUsage {
    let named = wire.figures.iter().filter(|figure| !figure.name.is_empty());
    // Nothing but numbers can be written to the API.
    let (numbers, others): (Vec<_>, Vec<_>) = named.partition(|figure| figure.value.is_finite());
    AttemptUsage {
        incomplete: wire.incomplete || !others.is_empty() || numbers.len() > FIGURES,
        figures: numbers.into_iter().take(FIGURES).map(figure).collect(),
    }
}

fn figure(wire: &v1::Figure) -> Figure {
    let scope = match wire.scope() {
        v1::Scope::Unspecified | v1::Scope::Attempt => "attempt",
        v1::Scope::Driver => "driver",
        v1::Scope::Allocation => "allocation",
        v1::Scope::Device => "device",
    };
    Figure {
        name: cut(&wire.name, text::FIGURE),
        value: wire.value,
        unit: cut(&wire.unit, text::WORD),
        source: cut(&wire.source, text::LABEL),
        scope: scope.into(),
    }
}

fn device(wire: &v1::Device) -> DeviceHeld {
    DeviceHeld {
        resource: cut(&wire.resource, text::NAME),
        id: cut(&wire.id, text::NAME),
        amount: cut(&wire.amount, text::LABEL),
    }
}

/// The axes of an isolation record.
pub fn isolation_axes(wire: &v1::Isolation) -> Vec<IsolationAxis> {
    let mut seen = BTreeSet::new();
    wire.axes
        .iter()
        .filter(|axis| !axis.axis.is_empty() && seen.insert(first_bytes(&axis.axis, text::WORD)))
        .take(MAX_AXES)
        .map(|axis| IsolationAxis {
            axis: cut(&axis.axis, text::WORD),
            level: match axis.level() {
                v1::IsolationLevel::None => IsolationLevel::None,
                v1::IsolationLevel::Soft => IsolationLevel::Soft,
                v1::IsolationLevel::Hard => IsolationLevel::Hard,
            },
            mechanism: cut(&axis.mechanism, text::NAME),
            reason: cut(&axis.reason, text::REASON),
        })
        .collect()
}

fn backend(wire: &v1::Backend) -> BackendStatus {
    BackendStatus {
        kind: cut(&wire.kind, text::LABEL),
        id: cut(&wire.id, text::NAME),
        state: cut(&wire.state, text::LABEL),
        url: cut(&wire.url, text::URL),
        queued_time: time(wire.queued_at).map(MicroTime),
        restarts: i32::try_from(wire.restarts).unwrap_or(i32::MAX),
    }
}

/// `None` for a stream that we do not know.
pub(super) fn stream_name(stream: v1::Stream) -> Option<StreamName> {
    match stream {
        v1::Stream::Unspecified => None,
        v1::Stream::Stdout => Some(StreamName::Stdout),
        v1::Stream::Stderr => Some(StreamName::Stderr),
    }
}
