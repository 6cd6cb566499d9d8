//! Messages between server, nursery and supervisor: one datagram each, little endian.
//!
//! Both ends are the same executable, so the layout has no versions.

use std::ffi::{CStr, CString};

use crate::isolation::{Axis, Part, PartRef};

/// A message that cannot be read: the two ends are not the same build, or memory was hurt.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("malformed message of {length} bytes, kind {kind:?}")]
pub(crate) struct Malformed {
    length: usize,
    kind: Option<u8>,
}

/// What a supervisor must start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Job {
    pub cwd: CString,
    /// Paths to try in turn, as a shell looks along `PATH`.
    pub programs: Vec<CString>,
    /// With argument 0.
    pub args: Vec<CString>,
    /// `NAME=VALUE`.
    pub env: Vec<CString>,
    /// What the command is put in before exec.
    pub parts: Vec<Part>,
}

/// Server to supervisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// To the command's process group.
    Signal(i32),
    /// End everything now.
    Kill,
    /// Tell what was used so far.
    Sample,
    /// And what is in memory now, which takes longer.
    Measure,
}

/// What was used, from the kernel's own counters. Times in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    pub user: u64,
    pub system: u64,
    /// Largest resident set of a single process, bytes.
    pub peak_bytes: u64,
    /// Bytes that went to and from block devices on behalf of the tree.
    pub read_bytes: u64,
    pub write_bytes: u64,
    /// Bytes in memory now, without pages of files, pages shared within the tree counted once; only where
    /// [`Order::Measure`] asked.
    pub resident_bytes: u64,
    /// Processes and threads now; 0 at the end.
    pub tasks: u64,
}

/// At which step a start failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StartStep {
    Fork,
    Group,
    Stdio,
    Directory,
    Exec,
    /// Being put into what keeps Runs apart, on one axis.
    Confine(Axis),
}

/// Supervisor to server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Report {
    /// `exec` succeeded. Unix microseconds.
    Started {
        at: i64,
        pid: i32,
    },
    /// Nothing was started; the supervisor is gone.
    StartFailed {
        at: i64,
        step: StartStep,
        errno: i32,
    },
    Sampled {
        wall: u64,
        counters: Counters,
    },
    /// Everything was reaped; the supervisor is gone.
    Ended(Ended),
}

/// The end of a Run's tree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ended {
    /// Unix microseconds at which the command itself was reaped.
    pub at: i64,
    /// Exit code of the command when `signal` is 0.
    pub code: i32,
    /// Signal that ended the command, 0 = it exited.
    pub signal: i32,
    /// A signal or kill order was carried out while the command was alive.
    pub stopped: bool,
    /// The kernel said that no child is left (`ECHILD`).
    pub proven: bool,
    /// Microseconds from just before the command's process was made to `at`, by the monotonic clock: longer than
    /// from the report of its start, which may come late.
    pub wall: u64,
    pub counters: Counters,
}

/// Nursery to server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum News {
    /// An idle supervisor; its control socket comes along.
    Born { pid: i32 },
    /// No process could be made.
    BirthFailed { errno: i32 },
    /// A supervisor was reaped. `orphans` of its processes had to be killed by the nursery.
    Gone { pid: i32, orphans: u32 },
}

/// First byte of a job's message: the job follows.
pub(crate) const IN_MESSAGE: u8 = 0;
/// First byte of a job's message: the job is in the last descriptor.
pub(crate) const IN_MEMORY: u8 = 1;
/// Flag in the first byte of a job's message: the last descriptor is to be kept as long as the supervisor lives.
pub(crate) const LEASED: u8 = 0x80;
/// Jobs longer than this travel in a memory file instead of the datagram.
pub(crate) const INLINE_JOB: usize = 32 * 1024;
/// No message other than a job is longer.
pub(crate) const MAX_MESSAGE: usize = 96;

impl Job {
    /// The whole job in one buffer: three counts, NUL-terminated strings, then the parts: axis, length, bytes.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let lists = [&self.programs, &self.args, &self.env];
        let strings = || lists.into_iter().flatten().chain([&self.cwd]);
        let mut bytes =
            Vec::with_capacity(12 + strings().map(|s| s.as_bytes_with_nul().len()).sum::<usize>());
        for list in lists {
            bytes.extend_from_slice(&u32::try_from(list.len()).unwrap_or(u32::MAX).to_le_bytes());
        }
        for string in strings() {
            bytes.extend_from_slice(string.as_bytes_with_nul());
        }
        for part in &self.parts {
            bytes.push(part.axis as u8);
            bytes.extend_from_slice(&u32::try_from(part.bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
            bytes.extend_from_slice(&part.bytes);
        }
        bytes
    }
}

/// A job as the supervisor reads it: borrowed, nothing is copied.
#[derive(Debug)]
pub(super) struct JobRef<'a> {
    pub cwd: &'a CStr,
    pub programs: Vec<&'a CStr>,
    pub args: Vec<&'a CStr>,
    pub env: Vec<&'a CStr>,
    pub parts: Vec<PartRef<'a>>,
}

impl<'a> JobRef<'a> {
    pub(super) fn decode(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let malformed = || Malformed { length: bytes.len(), kind: None };
        let mut reader = Reader { bytes };
        let mut counts = [0usize; 3];
        for count in &mut counts {
            *count = reader.u32().ok_or_else(malformed)? as usize;
        }
        let mut list = |count: usize| -> Option<Vec<&'a CStr>> {
            let mut strings = Vec::with_capacity(count.min(bytes.len()));
            for _ in 0..count {
                strings.push(reader.string()?);
            }
            Some(strings)
        };
        let programs = list(counts[0]).ok_or_else(malformed)?;
        let args = list(counts[1]).ok_or_else(malformed)?;
        let env = list(counts[2]).ok_or_else(malformed)?;
        let cwd = reader.string().ok_or_else(malformed)?;
        let mut parts = Vec::new();
        while !reader.bytes.is_empty() {
            parts.push(reader.part().ok_or_else(malformed)?);
        }
        Ok(Self { cwd, programs, args, env, parts })
    }
}

impl Order {
    pub(crate) fn encode(self) -> Vec<u8> {
        match self {
            Self::Signal(number) => Writer::new(1).i32(number).done(),
            Self::Kill => Writer::new(2).done(),
            Self::Sample => Writer::new(3).done(),
            Self::Measure => Writer::new(4).done(),
        }
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        decode(bytes, |kind, reader| {
            Some(match kind {
                1 => Self::Signal(reader.i32()?),
                2 => Self::Kill,
                3 => Self::Sample,
                4 => Self::Measure,
                _ => return None,
            })
        })
    }
}

impl Report {
    pub(crate) fn encode(self) -> Vec<u8> {
        match self {
            Self::Started { at, pid } => Writer::new(1).i64(at).i32(pid).done(),
            Self::StartFailed { at, step, errno } => {
                Writer::new(2).i64(at).i32(step.to_raw()).i32(errno).done()
            }
            Self::Sampled { wall, counters } => Writer::new(3).u64(wall).counters(counters).done(),
            Self::Ended(end) => {
                let flags = i32::from(end.stopped) | i32::from(end.proven) << 1;
                let writer = Writer::new(4).i64(end.at).i32(end.code).i32(end.signal).i32(flags);
                writer.u64(end.wall).counters(end.counters).done()
            }
        }
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        decode(bytes, |kind, reader| {
            Some(match kind {
                1 => Self::Started { at: reader.i64()?, pid: reader.i32()? },
                2 => Self::StartFailed {
                    at: reader.i64()?,
                    step: StartStep::from_raw(reader.i32()?)?,
                    errno: reader.i32()?,
                },
                3 => Self::Sampled { wall: reader.u64()?, counters: reader.counters()? },
                4 => {
                    let (at, code, signal, flags) =
                        (reader.i64()?, reader.i32()?, reader.i32()?, reader.i32()?);
                    let (wall, counters) = (reader.u64()?, reader.counters()?);
                    let (stopped, proven) = (flags & 1 != 0, flags & 2 != 0);
                    Self::Ended(Ended { at, code, signal, stopped, proven, wall, counters })
                }
                _ => return None,
            })
        })
    }
}

impl News {
    pub(crate) fn encode(self) -> Vec<u8> {
        match self {
            Self::Born { pid } => Writer::new(1).i32(pid).done(),
            Self::BirthFailed { errno } => Writer::new(2).i32(errno).done(),
            Self::Gone { pid, orphans } => Writer::new(3).i32(pid).i32(orphans.cast_signed()).done(),
        }
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        decode(bytes, |kind, reader| {
            Some(match kind {
                1 => Self::Born { pid: reader.i32()? },
                2 => Self::BirthFailed { errno: reader.i32()? },
                3 => Self::Gone { pid: reader.i32()?, orphans: reader.i32()?.cast_unsigned() },
                _ => return None,
            })
        })
    }
}

impl StartStep {
    fn from_raw(raw: i32) -> Option<Self> {
        let confining = Axis::ALL.map(Self::Confine);
        let plain = [Self::Fork, Self::Group, Self::Stdio, Self::Directory, Self::Exec];
        plain.into_iter().chain(confining).find(|step| step.to_raw() == raw)
    }

    fn to_raw(self) -> i32 {
        match self {
            Self::Fork => 0,
            Self::Group => 1,
            Self::Stdio => 2,
            Self::Directory => 3,
            Self::Exec => 4,
            Self::Confine(axis) => 16 + i32::from(axis as u8),
        }
    }
}

fn decode<'a, T>(
    bytes: &'a [u8],
    body: impl FnOnce(u8, &mut Reader<'a>) -> Option<T>,
) -> Result<T, Malformed> {
    let kind = bytes.first().copied();
    let mut reader = Reader { bytes: bytes.get(1..).unwrap_or_default() };
    kind.and_then(|kind| body(kind, &mut reader))
        .filter(|_| reader.bytes.is_empty())
        .ok_or(Malformed { length: bytes.len(), kind })
}

struct Writer(Vec<u8>);

impl Writer {
    fn new(kind: u8) -> Self {
        let mut bytes = Vec::with_capacity(MAX_MESSAGE);
        bytes.push(kind);
        Self(bytes)
    }

    fn i32(mut self, value: i32) -> Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    fn i64(mut self, value: i64) -> Self {
        self.0.extend_from_slice(&value.to_le_bytes());
        self
    }

    fn u64(self, value: u64) -> Self {
        self.i64(value.cast_signed())
    }

    fn counters(self, c: Counters) -> Self {
        [c.user, c.system, c.peak_bytes, c.read_bytes, c.write_bytes, c.resident_bytes, c.tasks]
            .into_iter()
            .fold(self, Self::u64)
    }

    fn done(self) -> Vec<u8> {
        self.0
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.bytes.split_first_chunk::<N>()?;
        self.bytes = rest;
        Some(*head)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    fn i32(&mut self) -> Option<i32> {
        self.take().map(i32::from_le_bytes)
    }

    fn i64(&mut self) -> Option<i64> {
        self.take().map(i64::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.i64().map(i64::cast_unsigned)
    }

    fn counters(&mut self) -> Option<Counters> {
        let mut next = || self.u64();
        Some(Counters {
            user: next()?,
            system: next()?,
            peak_bytes: next()?,
            read_bytes: next()?,
            write_bytes: next()?,
            resident_bytes: next()?,
            tasks: next()?,
        })
    }

    fn part(&mut self) -> Option<PartRef<'a>> {
        let [axis] = self.take::<1>()?;
        let axis = Axis::ALL.into_iter().find(|known| *known as u8 == axis)?;
        let length = self.u32()? as usize;
        let (bytes, rest) = self.bytes.split_at_checked(length)?;
        self.bytes = rest;
        Some(PartRef { axis, bytes })
    }

    fn string(&mut self) -> Option<&'a CStr> {
        let string = CStr::from_bytes_until_nul(self.bytes).ok()?;
        self.bytes = &self.bytes[string.count_bytes() + 1..];
        Some(string)
    }
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
