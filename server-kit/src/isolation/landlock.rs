//! Landlock: what of the file tree a Run may read, write and execute, by a rule set without privileges.
//!
//! The rules that all Runs share are opened once; an idle supervisor makes a rule set of them ahead of need
//! and adds the one of the Run's own folder when it comes; the Run's process only enters it.
#![allow(unsafe_code, reason = "two calls that must be usable between clone and exec")]

use std::ffi::c_int;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::path::Path;

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible as _, PathBeneath, Ruleset,
    RulesetAttr as _, RulesetCreated, RulesetCreatedAttr as _, Scope, make_bitflags,
};
use rustix::fs::{Mode, OFlags};

/// The version that this kernel offers, 0 without Landlock.
pub(crate) fn abi() -> u32 {
    const VERSION: u32 = 1;
    // SAFETY: with this flag the call reads nothing and answers the version.
    let answer =
        unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<u8>(), 0, VERSION) };
    u32::try_from(answer).unwrap_or(0)
}

/// What may be done below a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Grant {
    /// List directories, nothing else.
    List,
    /// Read and execute.
    Read,
    /// Read, and write to what exists.
    Adjust,
    /// Everything but devices and making them.
    Write,
    /// A device, or a folder of them: read, write, control.
    Device,
}

impl Grant {
    fn access(self, abi: ABI) -> BitFlags<AccessFs> {
        let known = AccessFs::from_all(abi);
        let access = match self {
            Self::List => AccessFs::ReadDir.into(),
            Self::Read => AccessFs::from_read(abi),
            Self::Adjust => make_bitflags!(AccessFs::{Execute | ReadFile | ReadDir | WriteFile | Truncate}),
            Self::Write => known & !make_bitflags!(AccessFs::{MakeChar | MakeBlock | IoctlDev}),
            Self::Device => {
                make_bitflags!(AccessFs::{ReadFile | ReadDir | WriteFile | Truncate | IoctlDev})
            }
        };
        access & known
    }
}

/// One rule, opened.
#[derive(Debug)]
pub(crate) struct Rule {
    path: OwnedFd,
    folder: bool,
    grant: Grant,
}

impl Rule {
    /// Opens `path`, which is not a symbolic link.
    pub(crate) fn open(path: &Path, grant: Grant) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let path = rustix::fs::open(path, flags, Mode::empty())?;
        Self::at(path, grant)
    }

    /// A rule for what `path` is open on.
    pub(crate) fn at(path: OwnedFd, grant: Grant) -> io::Result<Self> {
        let kind = rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(&path)?.st_mode);
        Ok(Self { path, folder: kind.is_dir(), grant })
    }
}

/// A rule set under way.
#[derive(Debug)]
pub(crate) struct Rules {
    set: RulesetCreated,
    abi: ABI,
}

impl Rules {
    /// Everything that version `abi` can refuse is refused but for `rules`; with `no_tcp` TCP too. Nothing is
    /// left out silently: what the kernel does not take is an error.
    pub(crate) fn new<'a>(
        abi: u32,
        rules: impl IntoIterator<Item = &'a Rule>,
        no_tcp: bool,
    ) -> Result<Self, String> {
        let abi = ABI::from(i32::try_from(abi).unwrap_or(i32::MAX));
        let create = || {
            let mut set = Ruleset::default()
                .set_compatibility(CompatLevel::HardRequirement)
                .handle_access(AccessFs::from_all(abi))?;
            if no_tcp {
                set = set.handle_access(AccessNet::BindTcp | AccessNet::ConnectTcp)?;
            }
            if !Scope::from_all(abi).is_empty() {
                set = set.scope(Scope::from_all(abi))?;
            }
            set.create()
        };
        let set = create().map_err(|error| format!("Landlock: {error}"))?;
        let mut made = Self { set, abi };
        for rule in rules {
            made.add(rule)?;
        }
        Ok(made)
    }

    /// One more rule.
    pub(crate) fn add(&mut self, rule: &Rule) -> Result<(), String> {
        let mut access = rule.grant.access(self.abi);
        if !rule.folder {
            access &= AccessFs::from_file(self.abi);
        }
        if access.is_empty() {
            return Ok(());
        }
        let beneath = PathBeneath::new(rule.path.as_fd(), access);
        (&mut self.set).add_rule(beneath).map(drop).map_err(|error| format!("Landlock: {error}"))
    }

    /// The finished set, for [`enter`].
    pub(crate) fn finish(self) -> Result<OwnedFd, String> {
        Option::<OwnedFd>::from(self.set).ok_or_else(|| "Landlock: not supported".to_owned())
    }
}

/// Puts this process and its children under `rules`, for good; needs no_new_privs. Only a system call.
pub(crate) fn enter(rules: &OwnedFd) -> bool {
    let no_flags: c_int = 0;
    // SAFETY: plain system call on an open descriptor.
    unsafe { libc::syscall(libc::SYS_landlock_restrict_self, rules.as_raw_fd(), no_flags) == 0 }
}
