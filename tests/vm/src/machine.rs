//! One machine, from its disk to its end.

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, BufWriter, Read as _, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use tempfile::TempDir;

use crate::fetch::{self, Kernel, Unavailable, cache_folder, quiet};
use crate::files::{Root, libraries};
use crate::initramfs::Archive;
use crate::job::{JOB_FILE, Job, MODULE_LIST, MODULES, News};
use crate::modules;

/// What the machine is given.
#[derive(Clone, Debug)]
pub struct Machine {
    pub processors: u32,
    pub memory_mib: u32,
    pub disk_mib: u32,
    /// From the start of the machine to the end of the program.
    pub limit: Duration,
    /// The program that is process 1: one that calls [`crate::guest_main`] when it is.
    pub init: PathBuf,
    /// Taken along, each to its own path, with the libraries that programs among them need.
    pub with: Vec<PathBuf>,
}

/// How it went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The program ended; a signal is 128 and its number.
    Ended(u8),
    /// The time limit came first; with the end of the kernel's log.
    OutOfTime(String),
    /// The machine ended before the program, without a word from it; with the end of the kernel's log.
    Lost(String),
    /// No machine can be started here.
    Unavailable(Unavailable),
}

/// The program's streams and the machine's own words, in the order of the serial ports after the kernel's console.
const CHANNELS: [&str; 3] = ["output", "errors", "status"];

/// Tuned to start in two seconds without hardware help. Processors that do nothing more for two minutes (seen once in many
/// runs, on a busy machine) end the machine, with what each of them was at in the log: `loglevel=5` shows that.
const COMMAND_LINE: &str = "console=ttyS0 loglevel=5 panic=-1 reboot=t mitigations=off tsc=reliable no_timer_check tsc_early_khz=2000000 watchdog_thresh=60 softlockup_panic=1 softlockup_all_cpu_backtrace=1 rdinit=/init";

/// Lines of the kernel's log that are told of a machine that did not end well: what two processors were at is 80.
const LAST_WORDS: usize = 100;

impl Machine {
    /// Runs the job to its end. What the program prints goes to `output` and `errors` as it comes.
    pub fn run(
        &self,
        job: &Job,
        output: impl Write + Send + 'static,
        errors: impl Write + Send + 'static,
    ) -> Result<Outcome> {
        let kernel = match fetch::ensure()? {
            Ok(kernel) => kernel,
            Err(unavailable) => return Ok(Outcome::Unavailable(unavailable)),
        };
        let work = work_folder()?;
        self.furnish(&kernel, job, work.path())?;
        let listeners = CHANNELS.map(|name| UnixListener::bind(work.path().join(name)));
        let [for_output, for_errors, for_status] = listeners;
        let mut qemu = Qemu::start(self, &kernel, work)?;
        let copies = [copy(for_output?, output), copy(for_errors?, errors)];
        let (tell, told) = channel();
        listen(for_status?, tell);
        let outcome = qemu.attend(&told, self.limit)?;
        drop(qemu);
        for copy in copies {
            // A copy ends with the machine; one that never began has nothing to say.
            if matches!(outcome, Outcome::Ended(_)) {
                let _ = copy.join();
            }
        }
        Ok(outcome)
    }

    fn furnish(&self, kernel: &Kernel, job: &Job, work: &Path) -> Result<()> {
        let folder = work.join("root");
        fs::create_dir(&folder)?;
        let mut root = Root::make(&folder)?;
        root.take(std::slice::from_ref(&job.program))?;
        root.take(&self.with)?;
        root.write(JOB_FILE, &serde_json::to_vec(job)?)?;
        root.disk(&work.join("disk"), self.disk_mib).context("cannot make the machine's disk")?;
        fs::remove_dir_all(&folder)?;
        self.initial(kernel, work).context("cannot make the initial file system")
    }

    fn initial(&self, kernel: &Kernel, work: &Path) -> Result<()> {
        let init = work.join("init");
        quiet(Command::new("strip").arg("-o").args([&init, &self.init]))?;
        let mut archive = Archive::new(BufWriter::new(File::create(work.join("initial"))?));
        for folder in ["dev", "disk", "proc", MODULES] {
            archive.folder(folder)?;
        }
        archive.file("init", &fs::read(&init)?)?;
        let mut folders: Vec<PathBuf> = Vec::new();
        for library in libraries(std::slice::from_ref(&self.init))? {
            let below: Vec<_> =
                library.ancestors().skip(1).filter(|above| above.parent().is_some()).collect();
            for above in below.into_iter().rev() {
                if !folders.iter().any(|known| known == above) {
                    archive.folder(&inside(above))?;
                    folders.push(above.to_owned());
                }
            }
            archive.file(&inside(&library), &fs::read(&library)?)?;
        }
        let mut list = String::new();
        for module in modules::in_order(&kernel.modules)? {
            let name = module.file_name().unwrap_or_default().to_string_lossy().into_owned();
            archive.file(&format!("{MODULES}/{name}"), &fs::read(&module)?)?;
            list.push_str(&name);
            list.push('\n');
        }
        archive.file(MODULE_LIST, list.as_bytes())?;
        archive.end()?;
        Ok(())
    }
}

fn inside(path: &Path) -> String {
    path.to_string_lossy().trim_start_matches('/').to_owned()
}

/// In the cache: the disk may be large, and a temporary folder in memory would hold it twice.
fn work_folder() -> Result<TempDir> {
    let parent = cache_folder()?.join("run");
    fs::create_dir_all(&parent).with_context(|| format!("cannot make {}", parent.display()))?;
    tempfile::Builder::new().prefix("vm-").tempdir_in(&parent).context("no folder for the machine")
}

/// The running machine. Dropping it ends it.
struct Qemu {
    child: Child,
    log: File,
    /// Removed as soon as the machine has everything open, so that nothing is left of one that is killed with us.
    work: Option<TempDir>,
}

impl Qemu {
    fn start(machine: &Machine, kernel: &Kernel, work: TempDir) -> Result<Self> {
        let path = |name: &str| work.path().join(name).display().to_string();
        let log = path("kernel.log");
        // Dies with us, however we end.
        let mut command = Command::new("setpriv");
        command
            .args([
                "--pdeathsig",
                "KILL",
                "qemu-system-x86_64",
                "-nodefaults",
                "-no-user-config",
                "-no-reboot",
            ])
            // Never /dev/kvm: one that is there may still not run a stock kernel, and QEMU does not fall back.
            .args(["-accel", "tcg,thread=multi", "-cpu", "max", "-M", "pc", "-display", "none"])
            .args(["-smp", &machine.processors.to_string(), "-m", &machine.memory_mib.to_string()])
            .args(["-kernel", &kernel.image.display().to_string(), "-initrd", &path("initial")])
            .args(["-append", COMMAND_LINE])
            .args(["-drive", &format!("file={},format=raw,if=none,id=disk,cache=unsafe", path("disk"))])
            .args(["-device", "virtio-blk-pci,drive=disk"])
            .args(["-serial", &format!("file:{log}")]);
        for name in CHANNELS {
            command.args(["-chardev", &format!("socket,id={name},path={}", path(name))]);
            command.args(["-serial", &format!("chardev:{name}")]);
        }
        let said = File::create(path("qemu.log"))?;
        // The file must be there before QEMU opens it, for us to read it after its folder is gone.
        File::create(&log)?;
        let log = File::open(&log)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(said.try_clone()?)
            .stderr(said)
            .spawn()
            .context("cannot run setpriv")?;
        Ok(Self { child, log, work: Some(work) })
    }

    /// Waits for the end of the program, of the machine or of the time.
    fn attend(&mut self, told: &Receiver<News>, limit: Duration) -> Result<Outcome> {
        let deadline = Instant::now() + limit;
        loop {
            // Short enough to see a machine that ends without a word.
            let patience = deadline.saturating_duration_since(Instant::now()).min(Duration::from_millis(200));
            match told.recv_timeout(patience) {
                Ok(News::Up) => drop(self.work.take()),
                Ok(News::Ended(code)) => {
                    self.finish(deadline)?;
                    return Ok(Outcome::Ended(code));
                }
                Ok(News::Trouble(trouble)) => anyhow::bail!("in the machine: {trouble}"),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    if self.child.try_wait()?.is_some() {
                        // Its last words may have come meanwhile.
                        return Ok(match told.try_recv() {
                            Ok(News::Ended(code)) => Outcome::Ended(code),
                            _ => Outcome::Lost(self.said()),
                        });
                    }
                    if Instant::now() >= deadline {
                        return Ok(Outcome::OutOfTime(self.said()));
                    }
                }
            }
        }
    }

    /// The machine turns itself off after its program; all that it printed has then arrived.
    fn finish(&mut self, deadline: Instant) -> Result<()> {
        while self.child.try_wait()?.is_none() && Instant::now() < deadline {
            #[expect(
                clippy::disallowed_methods,
                reason = "the pause between two looks at a condition with a deadline"
            )]
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// The end of what the kernel and QEMU said.
    fn said(&mut self) -> String {
        let mut text = String::new();
        if let Some(work) = &self.work {
            text = fs::read_to_string(work.path().join("qemu.log")).unwrap_or_default();
        }
        let mut kernel = Vec::new();
        let _ = self.log.read_to_end(&mut kernel);
        text.push_str(&String::from_utf8_lossy(&kernel));
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(LAST_WORDS)..].join("\n")
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Passes on what comes, until the machine ends.
fn copy(from: UnixListener, mut to: impl Write + Send + 'static) -> JoinHandle<io::Result<()>> {
    std::thread::spawn(move || {
        let (mut stream, _) = from.accept()?;
        let mut buffer = [0; 16 * 1024];
        loop {
            let length = stream.read(&mut buffer)?;
            if length == 0 {
                return to.flush();
            }
            to.write_all(&buffer[..length])?;
            to.flush()?;
        }
    })
}

fn listen(from: UnixListener, tell: Sender<News>) {
    std::thread::spawn(move || {
        let Ok((stream, _)) = from.accept() else { return };
        for line in BufReader::<UnixStream>::new(stream).lines().map_while(Result::ok) {
            if let Ok(news) = serde_json::from_str(&line)
                && tell.send(news).is_err()
            {
                return;
            }
        }
    });
}
