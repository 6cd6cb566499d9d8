//! `krt local up`: becomes the platform, or starts one in the background.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use clap::Args;
use kruntimes_api::{crds, names};
use kruntimes_local::{Component, Config, Isolation, Platform, PlatformError, Status};
use tokio::io::{AsyncBufReadExt, BufReader};

use super::export_line;
use crate::attach::driver::Interrupts;
use crate::error::Error;
use crate::exit;
use crate::term::Terminal;
use crate::values;

/// Environment variable with the folder of the platform's programs.
const BIN_DIR_ENV: &str = "KRT_BIN_DIR";
/// Filter of the platform's own log, in the form of `RUST_LOG`.
const LOG_ENV: &str = "KRUNTIME_LOG";
/// How long containers may take to end.
const GRACE: Duration = Duration::from_secs(10);
/// How much of a failed start's log is shown, in bytes.
const SHOWN_LOG: u64 = 4096;

/// Start the platform on this machine.
///
/// In the foreground it shows its log, and ctrl-c stops it and everything that it runs; with
/// --detach it goes on in the background until `krt local down`. Objects are kept either way.
#[derive(Debug, Args)]
pub(crate) struct UpArgs {
    /// Go on in the background; returns when the API serves.
    #[arg(long, short)]
    pub detach: bool,
    /// Where to listen, on this machine only: IP:PORT, or PORT of 127.0.0.1; default: as last time, else any free port.
    #[arg(long, value_name = "ADDRESS", value_parser = listen)]
    listen: Option<SocketAddr>,
    /// Program that an image name stands for; may be repeated.
    #[arg(long, value_name = "NAME=PATH", value_parser = image)]
    image: Vec<(String, PathBuf)>,
    /// Folder with scheduler, controller, runtimed and the servers; default: krt's own.
    #[arg(long, value_name = "DIR", env = BIN_DIR_ENV, hide_env_values = true)]
    bin_dir: Option<PathBuf>,
    /// Serve the API and run Pods, without scheduler and controller.
    #[arg(long)]
    api_only: bool,
    /// Give up after this time with --detach.
    #[arg(long, value_name = "DURATION", value_parser = values::limit, default_value = "30s")]
    timeout: Duration,
    /// Let whoever has the token order faults (/debug/faults), as the tests of this repository do.
    #[arg(long, hide = true)]
    debug_faults: bool,
    /// Leave the terminal's session and print the state on standard output once the API serves.
    #[arg(long, hide = true)]
    background: bool,
}

fn listen(text: &str) -> Result<SocketAddr, String> {
    let port = text.strip_prefix(':').unwrap_or(text).parse::<u16>().ok();
    let address = match port {
        Some(port) => SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port),
        None => text
            .replace("localhost:", "127.0.0.1:")
            .parse()
            .map_err(|_| "must be IP:PORT, or a port".to_owned())?,
    };
    match address.ip().is_loopback() {
        true => Ok(address),
        false => Err("must be an address of this machine only, such as 127.0.0.1: whoever reaches the local platform controls it".into()),
    }
}

fn image(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((name, path)) if !name.is_empty() && !path.is_empty() => {
            let path = std::path::absolute(path).map_err(|e| e.to_string())?;
            if path.is_file() {
                Ok((name.to_owned(), path))
            } else {
                Err(format!("{} is no file", path.display()))
            }
        }
        _ => Err("must have the form NAME=PATH".into()),
    }
}

pub(crate) async fn run(args: UpArgs, data_dir: PathBuf, terminal: &Terminal) -> Result<u8, Error> {
    if args.detach {
        return detach(&args, &data_dir, terminal).await;
    }
    if args.background {
        // The terminal that started it may close; an error means that there is none to leave.
        let _ = rustix::process::setsid();
    }
    start_logging();
    serve(&args, &data_dir, terminal).await
}

fn start_logging() {
    let filter = tracing_subscriber::EnvFilter::try_from_env(LOG_ENV)
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    let log =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    let log = log.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()));
    // Somebody who embeds krt may log already.
    drop(log.try_init());
}

fn config(args: &UpArgs, data_dir: &Path) -> Result<Config, Error> {
    let own = std::env::current_exe().map_err(|e| Error::io("find krt's own program", e))?;
    let bin_dir = args.bin_dir.clone().or_else(|| own.parent().map(Path::to_owned)).unwrap_or_default();
    let crds =
        crds::all().and_then(|all| all.iter().map(serde_json::to_value).collect::<Result<Vec<_>, _>>());
    let mut config = Config::new(data_dir);
    config.crds =
        crds.map_err(|e| Error::Protocol { doing: "prepare the kinds".into(), why: e.to_string() })?;
    config.address = args.listen.unwrap_or(config.address);
    config.debug_faults = args.debug_faults;
    config.images = args.image.iter().cloned().collect();
    if !args.api_only {
        config.components = components(&bin_dir, &data_dir.join("kubeconfig"))?;
    }
    config.bin_dir = Some(bin_dir);
    Ok(config)
}

/// The control plane, as a cluster would run it. Its ports are free ones of 127.0.0.1.
fn components(bin_dir: &Path, kubeconfig: &Path) -> Result<Vec<Component>, Error> {
    let component = |name: &str, more: &[&str]| {
        let program = bin_dir.join(name);
        if !program.is_file() {
            let message = format!("the program {name} is not in {}", bin_dir.display());
            let hint = format!(
                "build it with `cargo build --bins`, or name the folder that has it with --bin-dir or {BIN_DIR_ENV}; --api-only does without"
            );
            return Err(Error::failed(message, hint));
        }
        let own = [
            format!("--kubeconfig={}", kubeconfig.display()),
            "--bind-address=127.0.0.1".into(),
            "--metrics-bind-address=127.0.0.1:0".into(),
            "--health-probe-bind-address=127.0.0.1:0".into(),
        ];
        let args = own.into_iter().chain(more.iter().map(|arg| (*arg).to_owned())).collect();
        Ok(Component { name: name.to_owned(), program, args })
    };
    let image = format!("--default-daemon-image={}", names::RUNTIMED_CONTAINER);
    Ok(vec![component("scheduler", &[])?, component("controller", &[&image])?])
}

async fn serve(args: &UpArgs, data_dir: &Path, terminal: &Terminal) -> Result<u8, Error> {
    let mut interrupts = Interrupts::listen()?;
    let platform = Platform::start(config(args, data_dir)?).await.map_err(|error| refused(&error))?;
    let status = Status {
        pid: std::process::id(),
        address: format!("https://{}", platform.address()),
        kubeconfig: platform.kubeconfig_path(),
        started: jiff::Timestamp::now().to_string(),
    };
    if args.background {
        announce(&status)?;
    } else {
        say_next(&status, data_dir, terminal).await;
    }
    let end = tokio::select! {
        () = interrupts.next() => Ok(exit::OK),
        why = platform.broken() => Err(broken(data_dir, &why)),
    };
    if !args.background {
        terminal.note("stopping; ctrl-c again does not wait for the containers");
    }
    tokio::select! {
        () = platform.shutdown(GRACE) => end,
        () = interrupts.next() => end.and(Ok(exit::INTERRUPTED)),
    }
}

/// A platform that cannot keep what it is told is none: it ends rather than refuse every write from then on.
fn broken(data_dir: &Path, why: &str) -> Error {
    Error::failed(
        format!("the platform has ended: its database in {} took no write: {why}", data_dir.display()),
        "make room on that disk, then `krt local up` goes on with all that was written before",
    )
}

fn refused(error: &PlatformError) -> Error {
    let hint = match error {
        PlatformError::Running { .. } => "`krt local status` shows it, `krt local down` stops it",
        PlatformError::Listen(_) => "choose another address with --listen",
        PlatformError::Files { .. } => "choose another folder with --data-dir",
        PlatformError::Credentials(_)
        | PlatformError::Crd(_)
        | PlatformError::Database(_)
        | PlatformError::Bootstrap(_) => "",
    };
    Error::failed(error.to_string(), hint)
}

/// Tells the process that waits that the API serves. Nothing is written there afterwards.
fn announce(status: &Status) -> Result<(), Error> {
    let line = serde_json::to_string(status).unwrap_or_default() + "\n";
    let mut out = std::io::stdout().lock();
    match out.write_all(line.as_bytes()).and_then(|()| out.flush()) {
        // Whoever started it did not wait: the platform serves all the same.
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Error::io("announce the platform", error))
        }
        _ => Ok(()),
    }
}

async fn say_next(status: &Status, data_dir: &Path, terminal: &Terminal) {
    let program = std::env::current_exe().unwrap_or_default();
    if !Isolation::probe(&program).await.holds() {
        terminal.warn("this machine gives containers no PID namespaces: if the platform is killed, their processes may go on");
    }
    terminal.note(&format!(
        "the local platform serves at {} (folder {})",
        status.address,
        data_dir.display()
    ));
    terminal.note(&next_steps(status));
    terminal.note("ctrl-c stops it and everything that it runs; its objects are kept");
}

fn next_steps(status: &Status) -> String {
    format!(
        "next:\n  krt runtime create bash --image bash-server --replicas 2 --wait\n  krt run -c 'echo hello'\n\
         for kubectl:\n  {}",
        export_line(status)
    )
}

/// Starts this program again in the background and waits until it serves.
async fn detach(args: &UpArgs, data_dir: &Path, terminal: &Terminal) -> Result<u8, Error> {
    if let Some(status) = Status::read(data_dir) {
        terminal.note(&format!(
            "the local platform is running already at {} (process {})",
            status.address, status.pid
        ));
        terminal.data(&format!("{}\n", export_line(&status)))?;
        return Ok(exit::OK);
    }
    // A mistake in the arguments is told here, not in a log.
    config(args, data_dir)?;
    let (log_path, log) = log_file(data_dir)?;
    let before = log.metadata().map(|m| m.len()).unwrap_or(0);
    let mut child = tokio::process::Command::new(
        std::env::current_exe().map_err(|e| Error::io("find krt's own program", e))?,
    )
    .args(arguments(args, data_dir))
    .stdin(Stdio::null())
    .stdout(Stdio::piped())
    .stderr(log)
    .current_dir("/")
    .spawn()
    .map_err(|e| Error::io("start the platform", e))?;
    let mut line = String::new();
    let answer = async {
        match child.stdout.take() {
            Some(out) => BufReader::new(out).read_line(&mut line).await,
            None => Ok(0),
        }
    };
    let mut spinner = terminal.spinner();
    spinner.show(Some("the local platform is starting"));
    let answered = tokio::time::timeout(args.timeout, answer).await;
    spinner.show(None);
    if answered.is_err() {
        drop(child.start_kill());
        let what = format!("the local platform did not serve (its log: {})", log_path.display());
        return Err(Error::Expired { what, limit: args.timeout });
    }
    let Ok(status) = serde_json::from_str::<Status>(&line) else {
        let told = log_since(&log_path, before);
        let message = format!("the local platform did not start:\n{}", told.trim_end());
        return Err(Error::failed(message, format!("its whole log is in {}", log_path.display())));
    };
    terminal.note(&format!(
        "the local platform serves at {} (process {}, log {})",
        status.address,
        status.pid,
        log_path.display()
    ));
    terminal.note("next:\n  krt runtime create bash --image bash-server --replicas 2 --wait\n  krt run -c 'echo hello'\nkrt finds it by itself; for kubectl:");
    terminal.data(&format!("{}\n", export_line(&status)))?;
    Ok(exit::OK)
}

/// The platform's own log, which like all of its folder is for this person alone: it may repeat what Runs are given.
fn log_file(data_dir: &Path) -> Result<(PathBuf, File), Error> {
    let logs = data_dir.join("logs");
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&logs)
        .map_err(|e| Error::io(format!("make the folder {}", logs.display()), e))?;
    let path = logs.join("platform.log");
    match OpenOptions::new().create(true).append(true).mode(0o600).open(&path) {
        Ok(log) => Ok((path, log)),
        Err(error) => Err(Error::io(format!("write {}", path.display()), error)),
    }
}

fn arguments(args: &UpArgs, data_dir: &Path) -> Vec<std::ffi::OsString> {
    let mut line: Vec<std::ffi::OsString> = vec!["local".into(), "up".into(), "--background".into()];
    let mut add = |flag: &str, value: std::ffi::OsString| {
        let mut word = std::ffi::OsString::from(flag);
        word.push("=");
        word.push(value);
        line.push(word);
    };
    add("--data-dir", data_dir.into());
    if let Some(listen) = args.listen {
        add("--listen", listen.to_string().into());
    }
    for (name, path) in &args.image {
        let mut pair = std::ffi::OsString::from(name);
        pair.push("=");
        pair.push(path);
        add("--image", pair);
    }
    if let Some(dir) = args.bin_dir.as_ref().and_then(|dir| std::path::absolute(dir).ok()) {
        add("--bin-dir", dir.into());
    }
    let switches = [("--api-only", args.api_only), ("--debug-faults", args.debug_faults)];
    line.extend(switches.into_iter().filter(|(_, on)| *on).map(|(flag, _)| flag.into()));
    line
}

/// The end of what was logged after `from` bytes.
fn log_since(path: &Path, from: u64) -> String {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|mut file| {
        let end = file.seek(SeekFrom::End(0))?;
        let start = from.max(end.saturating_sub(SHOWN_LOG));
        file.seek(SeekFrom::Start(start))?;
        file.read_to_end(&mut bytes)
    });
    match read {
        Ok(_) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) => format!("(its log cannot be read: {error})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_of_this_machine_are_taken() {
        assert_eq!(listen("8443").unwrap().to_string(), "127.0.0.1:8443");
        assert_eq!(listen(":0").unwrap().to_string(), "127.0.0.1:0");
        assert_eq!(listen("127.1.2.3:1").unwrap().to_string(), "127.1.2.3:1");
        assert_eq!(listen("localhost:1").unwrap().to_string(), "127.0.0.1:1");
        assert_eq!(listen("[::1]:1").unwrap().to_string(), "[::1]:1");
        for bad in ["0.0.0.0:1", "[::]:1", "10.0.0.1:1"] {
            assert!(listen(bad).unwrap_err().contains("this machine only"), "{bad}");
        }
        assert!(listen("example.com:1").is_err() && listen("70000").is_err());
    }

    #[test]
    fn what_it_logs_is_for_its_owner_alone() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let data_dir = folder.path().join("kruntimes/local");
        let (path, _) = log_file(&data_dir).unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&data_dir), mode(&data_dir.join("logs")), mode(&path)), (0o700, 0o700, 0o600));
        assert!(log_file(&data_dir).is_ok(), "a second start appends");
    }

    #[test]
    fn images_name_programs_that_exist() {
        let program = std::env::current_exe().unwrap();
        let (name, path) = image(&format!("mine={}", program.display())).unwrap();
        assert_eq!((name.as_str(), path), ("mine", program));
        assert!(image("mine=/does/not/exist").unwrap_err().contains("is no file"));
        assert!(image("mine").is_err() && image("=x").is_err());
    }

    #[test]
    fn a_missing_program_is_named_with_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let error = components(folder.path(), Path::new("/k")).unwrap_err();
        assert!(error.to_string().contains("the program scheduler is not in"), "{error}");
        assert!(error.hint().unwrap().contains("KRT_BIN_DIR"));
    }
}
