//! Which devices a Run's control group lets through, for kernels without Landlock: the devices hierarchy of
//! version 1, an eBPF program of some instructions on the group of version 2.
//!
//! Only opening and making are looked at: whatever a Run inherits open stays open.
#![allow(unsafe_code, reason = "the bpf system call")]

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use kruntimes_resources::PLAIN_DEVICES;

use super::cgroup::leaf::Leaf;
use super::cgroup::{Controller, Groups, Version};
use super::places::is_accelerator;

/// A device, or all of one driver's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Device {
    block: bool,
    major: u32,
    /// `None`: every one.
    minor: Option<u32>,
}

impl Device {
    /// `None` for what is no device.
    fn of(path: &Path) -> Option<Self> {
        let metadata = fs::symlink_metadata(path).ok()?;
        let kind = metadata.file_type();
        let number = metadata.rdev();
        let device = Self {
            block: kind.is_block_device(),
            major: libc::major(number),
            minor: Some(libc::minor(number)),
        };
        (kind.is_block_device() || kind.is_char_device()).then_some(device)
    }

    /// As `devices.allow` takes it.
    fn line(self) -> String {
        let kind = if self.block { 'b' } else { 'c' };
        let minor = self.minor.map_or_else(|| "*".to_owned(), |minor| minor.to_string());
        format!("{kind} {}:{minor} rw", self.major)
    }
}

/// Terminals that programs make for themselves: `/dev/pts/*` (admin-guide/devices.txt).
const TERMINALS: Device = Device { block: false, major: 136, minor: None };
/// Where they are made, which may be a link in `/dev`.
const TERMINAL_MAKER: Device = Device { block: false, major: 5, minor: Some(2) };

/// What lets a Run's own devices through, and those that all have.
#[derive(Debug)]
pub(crate) struct DeviceFilter {
    version: Version,
    open: Vec<Device>,
    /// For Runs that leased none, loaded once.
    program: Option<OwnedFd>,
}

impl DeviceFilter {
    /// Looks by trying in a leaf. `leasable` are devices of which each is some Run's.
    pub(crate) fn find(groups: &Groups, leasable: &[PathBuf]) -> Result<Self, String> {
        let leaf = groups.take().map_err(|error| error.to_string())?;
        let version = match leaf.home(Version::V2) {
            Some(_) => Version::V2,
            None if leaf.dir(Controller::Devices).is_some() => Version::V1,
            None => return Err("no control group that could filter them".into()),
        };
        let open = open_devices(Path::new("/dev"), leasable);
        let program = match version {
            Version::V2 => {
                Some(load(&program(&open)).map_err(|error| format!("no eBPF program is taken: {error}"))?)
            }
            Version::V1 => None,
        };
        let filter = Self { version, open, program };
        filter.hold(&leaf, &[]).map_err(|(path, error)| format!("{}: {error}", path.display()))?;
        Ok(filter)
    }

    /// Closes every device to a leaf but those that all have and those of `leased`. The error names the file.
    pub(crate) fn hold(&self, leaf: &Leaf, leased: &[PathBuf]) -> Result<(), (PathBuf, io::Error)> {
        let own: Vec<Device> = leased.iter().filter_map(|path| Device::of(path)).collect();
        let allowed = || [self.open.as_slice(), own.as_slice()].concat();
        match (self.version, leaf.home(Version::V2), leaf.dir(Controller::Devices)) {
            (Version::V2, Some(directory), _) => {
                let attached = || {
                    let group = fs::File::open(directory)?;
                    match &self.program {
                        Some(program) if own.is_empty() => attach(group.as_fd(), program.as_fd()),
                        _ => attach(group.as_fd(), load(&program(&allowed()))?.as_fd()),
                    }
                };
                attached().map_err(|error| (directory.to_owned(), error))
            }
            (Version::V1, _, Some(directory)) => restrict(directory, &allowed()),
            _ => Err((PathBuf::new(), io::Error::from(io::ErrorKind::NotFound))),
        }
    }
}

/// What Runs have under `/dev` whatever they leased, as with Landlock.
fn open_devices(dev: &Path, leasable: &[PathBuf]) -> Vec<Device> {
    let names =
        fs::read_dir(dev).into_iter().flatten().flatten().filter_map(|e| e.file_name().into_string().ok());
    let plain = |name: &String| PLAIN_DEVICES.contains(&name.as_str()) || is_accelerator(name);
    let paths = names.filter(plain).map(|name| dev.join(name)).filter(|path| !leasable.contains(path));
    let folder = |path: &PathBuf| {
        // Accelerators may come in a folder, such as /dev/dri.
        let inside = fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
        let accelerator = path.file_name().and_then(|name| name.to_str()).is_some_and(is_accelerator);
        inside.filter(|path| accelerator && !leasable.contains(path)).collect::<Vec<_>>()
    };
    let paths: Vec<PathBuf> = paths.flat_map(|path| folder(&path).into_iter().chain([path])).collect();
    let mut open: Vec<Device> =
        paths.iter().filter_map(|path| Device::of(path)).chain([TERMINALS, TERMINAL_MAKER]).collect();
    open.sort();
    open.dedup();
    open
}

/// Version 1: everything is denied, then one line for each.
fn restrict(directory: &Path, allowed: &[Device]) -> Result<(), (PathBuf, io::Error)> {
    let (deny, allow) = (directory.join("devices.deny"), directory.join("devices.allow"));
    fs::write(&deny, "a").map_err(|error| (deny, error))?;
    for device in allowed {
        match fs::write(&allow, device.line()) {
            // Closed to the server's own group already: it is nobody's.
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => {}
            other => other.map_err(|error| (allow.clone(), error))?,
        }
    }
    Ok(())
}

/// `struct bpf_insn` (linux/bpf.h).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Instruction {
    code: u8,
    /// Destination in the low half, source in the high one.
    registers: u8,
    offset: i16,
    value: i32,
}

/// `BPF_DEVCG_ACC_MKNOD`, `BPF_DEVCG_DEV_BLOCK` and `_CHAR` (linux/bpf.h).
const MKNOD: i32 = 1;
const BLOCK: i32 = 1;
const CHARACTER: i32 = 2;

/// Lets `allowed` be opened, and nothing be made. It is called with a `struct bpf_cgroup_dev_ctx` in register 1: the
/// access in the upper and the kind in the lower half of the first word, then major and minor.
fn program(allowed: &[Device]) -> Vec<Instruction> {
    let one = |code, registers, offset, value| Instruction { code, registers, offset, value };
    // BPF_LDX | BPF_MEM | BPF_W
    let load = |to: u8, offset| one(0x61, 0x10 | to, offset, 0);
    // BPF_JMP | BPF_JNE | BPF_K
    let unless = |register, value, skip| one(0x55, register, skip, value);
    let answer = |value| [one(0xb7, 0, 0, value), one(0x95, 0, 0, 0)];
    let mut code = vec![
        load(2, 0),
        // BPF_ALU64 | BPF_MOV | BPF_X: r3 = r2
        one(0xbf, 0x23, 0, 0),
        // BPF_ALU64 | BPF_AND | BPF_K
        one(0x57, 3, 0, 0xffff),
        // BPF_ALU64 | BPF_RSH | BPF_K
        one(0x77, 2, 0, 16),
        one(0x57, 2, 0, MKNOD),
        load(4, 4),
        load(5, 8),
        unless(2, MKNOD, 2),
    ];
    code.extend(answer(0));
    for device in allowed {
        let kind = if device.block { BLOCK } else { CHARACTER };
        let number = |number: u32| number.cast_signed();
        match device.minor {
            Some(minor) => code.extend([
                unless(3, kind, 4),
                unless(4, number(device.major), 3),
                unless(5, number(minor), 2),
            ]),
            None => code.extend([unless(3, kind, 3), unless(4, number(device.major), 2)]),
        }
        code.extend(answer(1));
    }
    code.extend(answer(0));
    code
}

/// `bpf(2)`: its commands and what of its arguments is used here.
const PROG_LOAD: libc::c_int = 5;
const PROG_ATTACH: libc::c_int = 8;
const PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const ATTACH_TYPE_CGROUP_DEVICE: u32 = 6;
/// Beside those of groups above, all of which must let a device through.
const ALLOW_MULTI: u32 = 2;

#[repr(C)]
#[derive(Default)]
struct Load {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel: u32,
    flags: u32,
}

#[repr(C)]
#[derive(Default)]
struct Attach {
    group: u32,
    program: u32,
    kind: u32,
    flags: u32,
}

fn load(code: &[Instruction]) -> io::Result<OwnedFd> {
    let license = c"Apache-2.0";
    let arguments = Load {
        kind: PROG_TYPE_CGROUP_DEVICE,
        count: u32::try_from(code.len()).unwrap_or(u32::MAX),
        instructions: code.as_ptr() as u64,
        license: license.as_ptr() as u64,
        ..Load::default()
    };
    let fd = bpf(PROG_LOAD, &arguments)?;
    // SAFETY: a fresh descriptor of this process.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn attach(group: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let arguments = Attach {
        group: group.as_raw_fd().cast_unsigned(),
        program: program.as_raw_fd().cast_unsigned(),
        kind: ATTACH_TYPE_CGROUP_DEVICE,
        flags: ALLOW_MULTI,
    };
    bpf(PROG_ATTACH, &arguments).map(drop)
}

fn bpf<T>(command: libc::c_int, arguments: &T) -> io::Result<RawFd> {
    // SAFETY: the arguments, and what they point to, live as long as the call, which only reads them.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(arguments), std::mem::size_of::<T>())
    };
    match RawFd::try_from(result) {
        Ok(fd) if fd >= 0 => Ok(fd),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
#[path = "devices_tests.rs"]
mod tests;
