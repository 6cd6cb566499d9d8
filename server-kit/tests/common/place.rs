//! Places to start a server in: as a container has it, with control groups and a PID namespace of its own, so that
//! whatever a Run does ends with the test; and the same without any right.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use kruntimes_proto::v1::{DescribeRequest, Isolation, IsolationAxis, IsolationLevel};
use tempfile::TempDir;

use super::{TestServer, command, eventually, example};

/// What the server may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rights {
    /// All that this place gives, its control groups included.
    All,
    /// Another uid than 0, no capabilities: a restricted Pod.
    Restricted,
    /// Root with what a container has by default: no control groups, no tracing of others.
    Container,
    /// As `All`, and the groups of its Runs are in those that it was started in, as in a Pod that may write them. For Runs
    /// that mean no harm: nothing else ends with the place.
    Pod,
}

impl Rights {
    pub fn name(self) -> &'static str {
        match self {
            Self::All => "all rights",
            Self::Restricted => "restricted",
            Self::Container => "a container's root",
            Self::Pod => "a Pod with its groups",
        }
    }
}

/// The capabilities that container engines leave to root.
const CONTAINER: &str = "-all,+chown,+dac_override,+fowner,+fsetid,+kill,+setgid,+setuid,+setpcap,\
    +net_bind_service,+net_raw,+sys_chroot,+mknod,+audit_write,+setfcap";
/// Of the restricted server.
const NOBODY: u32 = 65_534;
/// Processes of one server and all its Runs at most: a bomb that nothing else stops ends here.
const PROCESSES: u32 = 1500;

/// A server in a place of its own, with the programs that its Runs start.
pub struct Placed {
    pub server: TestServer,
    pub isolation: Isolation,
    groups: Groups,
    stage: TempDir,
}

impl Placed {
    /// `None`, with a printed reason, where this cannot be had.
    pub async fn start(rights: Rights, args: &[&str], env: &[(&str, &str)]) -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            println!("skipped: only root can make a place with other rights");
            return None;
        }
        let groups = match Groups::make() {
            Ok(groups) => groups,
            Err(reason) => {
                println!("skipped: hostile processes need a cap on their number: {reason}");
                return None;
            }
        };
        let stage = stage();
        // On a disk, and not below /tmp, which a Run may have for itself.
        let dir = tempfile::Builder::new().prefix("kruntimes-").tempdir_in("/var/tmp").expect("tempdir");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("mode");
        let inner = command(&stage.path().join("shell"), dir.path(), args);
        if rights == Rights::Restricted {
            for folder in ["", "run", "work"] {
                let path = dir.path().join(folder);
                std::os::unix::fs::chown(&path, Some(NOBODY), Some(NOBODY)).expect("chown");
            }
        }
        let mut outer = groups.enter();
        // Each dies with what started it, so that nothing is left of a test that is killed.
        outer.args(["setpriv", "--pdeathsig", "KILL"]);
        if rights != Rights::Pod {
            outer.args(["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]);
        }
        if rights == Rights::Restricted {
            let id = NOBODY.to_string();
            outer.args(["setpriv", "--reuid", &id, "--regid", &id, "--clear-groups"]);
            outer.args(["--bounding-set=-all", "--inh-caps=-all", "--no-new-privs", "--pdeathsig", "KILL"]);
        }
        if rights == Rights::Container {
            outer.args(["setpriv", &format!("--bounding-set={CONTAINER}"), "--pdeathsig", "KILL"]);
        }
        outer.arg(inner.get_program()).args(inner.get_args());
        match rights {
            Rights::Pod => outer.arg("--cgroup-parent=own"),
            Rights::Container => outer.arg("--cgroup-parent=none"),
            Rights::All | Rights::Restricted => &mut outer,
        };
        outer.env("KRUNTIME_LOG", "error");
        outer.envs(env.iter().copied());
        let child = outer.stdin(Stdio::null()).spawn().expect("server starts");
        let mut server = TestServer::attach(child, dir).await;
        let isolation = server.events.describe(DescribeRequest {}).await.expect("describes").into_inner();
        let isolation = isolation.isolation.expect("a ladder");
        Some(Self { server, isolation, groups, stage })
    }

    /// A program that Runs of any uid can start.
    pub fn program(&self, name: &str) -> String {
        self.stage.path().join(name).display().to_string()
    }

    /// A working directory for one execution, as `runtimed` makes it.
    pub fn work(&self, id: &str) -> String {
        let path = self.server.work_dir().join(id);
        fs::create_dir(&path).expect("working directory");
        let owner = fs::metadata(self.server.work_dir()).expect("work dir");
        use std::os::unix::fs::MetadataExt as _;
        std::os::unix::fs::chown(&path, Some(owner.uid()), Some(owner.gid())).expect("chown");
        path.display().to_string()
    }

    pub fn axis(&self, axis: &str) -> &IsolationAxis {
        self.isolation.axes.iter().find(|told| told.axis == axis).expect("every axis is told")
    }

    pub fn level(&self, axis: &str) -> IsolationLevel {
        self.axis(axis).level()
    }

    pub fn mechanism(&self, axis: &str) -> &str {
        &self.axis(axis).mechanism
    }

    /// Control groups that the server made, in all hierarchies.
    pub fn groups(&self) -> usize {
        let own: usize = self.groups.0.iter().map(|group| below(group)).sum();
        own + (1..=2).map(|depth| self.server.groups.at_depth(depth).len()).sum::<usize>()
    }

    /// A file of the groups that the server was started in, from the first of them in which it holds `word`.
    pub fn pod_file(&self, name: &str, word: &str) -> Option<String> {
        let read = |group: &PathBuf| fs::read_to_string(group.join(name)).ok();
        self.groups.0.iter().filter_map(read).find(|text| text.contains(word))
    }

    /// A file of the group that the server has made for itself among those, where it has.
    pub fn kit_file(&self, name: &str) -> Option<String> {
        let entries = self.groups.0.iter().filter_map(|group| fs::read_dir(group).ok()).flatten().flatten();
        entries
            .map(|entry| entry.path().join("server").join(name))
            .find_map(|path| fs::read_to_string(path).ok())
    }

    /// One line per axis, for people.
    pub fn printout(&self) -> String {
        let axes = self.isolation.axes.iter();
        let lines = axes.map(|axis| {
            let level = axis.level().as_str_name().trim_start_matches("ISOLATION_LEVEL_").to_lowercase();
            format!("  {:10} {level:4} {} ({})\n", axis.axis, axis.mechanism, axis.reason)
        });
        lines.collect()
    }

    /// Ends the server and waits until nothing of its place is left.
    pub async fn end(mut self) {
        self.server.kill();
        eventually("the place is empty", || self.groups.remove()).await;
    }
}

/// Copies of the programs where every uid can execute them, which a build folder need not be.
fn stage() -> TempDir {
    let stage = tempfile::Builder::new().prefix("kruntimes-").tempdir_in("/var/tmp").expect("tempdir");
    fs::set_permissions(stage.path(), fs::Permissions::from_mode(0o755)).expect("mode");
    for name in ["shell", "attack", "load"] {
        let to = stage.path().join(name);
        fs::copy(example(name), &to).expect("copy");
        fs::set_permissions(&to, fs::Permissions::from_mode(0o755)).expect("mode");
    }
    stage
}

/// One group in each hierarchy of this machine, as a container has them.
struct Groups(Vec<PathBuf>);

impl Groups {
    fn make() -> Result<Self, String> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("kruntimes-test-{}-{number}", std::process::id());
        let mounts = fs::read_to_string("/proc/mounts").map_err(|error| error.to_string())?;
        let mut groups = Self(Vec::new());
        for line in mounts.lines() {
            let mut fields = line.split(' ').skip(1);
            let (Some(on), Some(kind), Some(options)) = (fields.next(), fields.next(), fields.next()) else {
                continue;
            };
            // A new group of these is empty, or none of our business.
            let other =
                ["cpuset", "net_cls", "net_prio", "perf_event", "hugetlb", "name=systemd", "misc", "rdma"];
            let is_other = kind == "cgroup" && options.split(',').any(|option| other.contains(&option));
            if !kind.starts_with("cgroup") || is_other || groups.0.iter().any(|group| group.starts_with(on)) {
                continue;
            }
            let group = Path::new(on).join(&name);
            if fs::create_dir(&group).is_ok() {
                groups.0.push(group);
            }
        }
        let cap = |group: &PathBuf| fs::write(group.join("pids.max"), PROCESSES.to_string()).is_ok();
        if groups.0.iter().any(cap) { Ok(groups) } else { Err("no pids controller can be had".into()) }
    }

    /// A command that runs its arguments inside.
    fn enter(&self) -> Command {
        let mut command = Command::new("bash");
        let script = r#"while [[ $1 != -- ]]; do echo 0 >"$1/cgroup.procs" || exit 125; shift; done; shift; exec "$@""#;
        command.args(["-c", script, "enter"]).args(&self.0).arg("--");
        command
    }

    fn remove(&self) -> bool {
        self.0.iter().all(|group| remove(group))
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while !self.remove() && std::time::Instant::now() < deadline {
            std::thread::yield_now();
        }
    }
}

fn remove(group: &Path) -> bool {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&entry.path());
        }
    }
    fs::remove_dir(group).is_ok() || !group.exists()
}

fn below(group: &Path) -> usize {
    let entries = fs::read_dir(group).into_iter().flatten().flatten();
    let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    folders.map(|folder| 1 + below(&folder.path())).sum()
}
