//! A real server of the kit as a child process, and a client that proves its token as `runtimed` does.
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, reason = "a test fails by panic")]
#![allow(dead_code, reason = "each test file uses a part")]

pub mod groups;
pub mod place;

use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use hmac::{Hmac, KeyInit as _, Mac as _};
use hyper_util::rt::TokioIo;
use kruntimes_proto::v1::runtime_client::RuntimeClient;
use kruntimes_proto::v1::runtime_events_client::RuntimeEventsClient;
use kruntimes_proto::v1::{
    AuthenticateRequest, ExecuteRequest, ExecutionState, ForgetRequest, HealthRequest, LogChunk, LogsRequest,
    StatusRequest, StatusResponse, Stream,
};
use kruntimes_proto::{CLIENT_CONTEXT, PROOF_KEY, SERVER_CONTEXT, SESSION_KEY, SOCKET_FILE, TOKEN_FILE};
use sha2::Sha256;
use tempfile::TempDir;
use tonic::metadata::MetadataValue;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

/// How long anything may take before a test fails. Generous: the machine is shared, or emulated.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// One of the examples of this package, which cargo builds with the tests.
pub fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("own path");
    let target = test.parent().and_then(Path::parent).expect("target folder");
    let path = target.join("examples").join(name);
    assert!(path.exists(), "{} is missing: run `cargo test -p server-kit` as a whole", path.display());
    path
}

/// A folder for a server: on a disk, where writes can go past the page cache, which a folder in memory does not take.
pub fn folder() -> TempDir {
    tempfile::Builder::new().prefix("kruntimes-").tempdir_in("/var/tmp").expect("tempdir")
}

/// A running server with its folders.
pub struct TestServer {
    pub child: Child,
    pub dir: TempDir,
    pub session: Session,
    pub runtime: RuntimeClient<Proved>,
    pub events: RuntimeEventsClient<Proved>,
    /// Removed last.
    pub groups: groups::Groups,
}

pub type Proved = InterceptedService<Channel, Session>;

/// The metadata that every call carries after `Authenticate`.
#[derive(Clone, Debug)]
pub struct Session {
    pub nonce: Vec<u8>,
    pub proof: Vec<u8>,
}

impl Interceptor for Session {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let metadata = request.metadata_mut();
        metadata.insert_bin(SESSION_KEY, MetadataValue::from_bytes(&self.nonce));
        metadata.insert_bin(PROOF_KEY, MetadataValue::from_bytes(&self.proof));
        Ok(request)
    }
}

const UNSHARE: [&str; 4] = ["--pid", "--fork", "--kill-child", "--mount-proc"];

fn contained(dir: &Path, args: &[&str]) -> Child {
    let inner = command(&example("shell"), dir, args);
    let mut outer = Command::new("unshare");
    outer.args(UNSHARE).arg(inner.get_program()).args(inner.get_args()).env("KRUNTIME_LOG", "warn");
    outer.stdin(Stdio::null()).spawn().expect("server starts")
}

/// A command for a server with its own folders below `dir`.
pub fn command(program: &Path, dir: &Path, args: &[&str]) -> Command {
    for folder in ["run", "work"] {
        std::fs::create_dir_all(dir.join(folder)).expect("folder");
    }
    let mut command = Command::new(program);
    command
        .args(["--port=0", "--bind-address=127.0.0.1"])
        .arg(format!("--work-dir={}", dir.join("work").display()))
        .arg(format!("--socket-dir={}", dir.join("run").display()))
        .arg(format!("--cgroup-parent={}", groups::parent(dir).display()))
        .args(args)
        .env("KRUNTIME_LOG", "warn")
        .stdin(Stdio::null());
    command
}

impl TestServer {
    pub async fn start(args: &[&str]) -> Self {
        let dir = folder();
        let child = command(&example("shell"), dir.path(), args).spawn().expect("server starts");
        Self::attach(child, dir).await
    }

    /// In a PID namespace of its own, so that nothing of it can escape the test. `None` with a printed
    /// reason where that is not allowed.
    pub async fn start_contained(args: &[&str]) -> Option<Self> {
        let allowed = Command::new("unshare").args(UNSHARE).arg("true").status().is_ok_and(|s| s.success());
        if !allowed {
            println!("skipped: this place allows no PID namespace of its own");
            return None;
        }
        let dir = folder();
        let child = contained(dir.path(), args);
        Some(Self::attach(child, dir).await)
    }

    /// Another server, contained, in the place of one that ended.
    pub async fn start_again(&mut self, args: &[&str]) {
        self.child = contained(self.dir.path(), args);
        let (channel, session) = authenticate(&self.socket_dir(), [0xab; 32]).await;
        self.runtime = RuntimeClient::with_interceptor(channel.clone(), session.clone());
        self.events = RuntimeEventsClient::with_interceptor(channel, session.clone());
        self.session = session;
    }

    pub async fn attach(child: Child, dir: TempDir) -> Self {
        let (channel, session) = authenticate(&dir.path().join("run"), [0xab; 32]).await;
        let runtime = RuntimeClient::with_interceptor(channel.clone(), session.clone());
        let events = RuntimeEventsClient::with_interceptor(channel, session.clone());
        let groups = groups::Groups::of(dir.path());
        Self { child, dir, session, runtime, events, groups }
    }

    pub fn socket_dir(&self) -> PathBuf {
        self.dir.path().join("run")
    }

    pub fn work_dir(&self) -> PathBuf {
        self.dir.path().join("work")
    }

    /// The server's own process, also when it lives in a PID namespace.
    pub fn pid(&self) -> i32 {
        let outer = self.child.id().cast_signed();
        let is_unshare =
            std::fs::read_to_string(format!("/proc/{outer}/comm")).is_ok_and(|c| c.trim() == "unshare");
        if is_unshare { children(outer)[0] } else { outer }
    }

    pub async fn execute(&mut self, request: ExecuteRequest) -> Result<(), Status> {
        self.runtime.execute(request).await.map(drop)
    }

    pub async fn status(&mut self, id: &str) -> Result<StatusResponse, Status> {
        let request = StatusRequest { id: id.into(), ..StatusRequest::default() };
        Ok(self.runtime.status(request).await?.into_inner())
    }

    pub async fn forget(&mut self, id: &str) -> Result<(), Status> {
        let request = ForgetRequest { id: id.into(), ..ForgetRequest::default() };
        self.runtime.forget(request).await.map(drop)
    }

    /// Waits for the end.
    pub async fn end(&mut self, id: &str) -> StatusResponse {
        self.until(id, |status| matches!(status.state(), ExecutionState::Succeeded | ExecutionState::Failed))
            .await
    }

    pub async fn running(&mut self, id: &str) -> StatusResponse {
        self.until(id, |status| status.state() == ExecutionState::Running).await
    }

    pub async fn until(&mut self, id: &str, holds: impl Fn(&StatusResponse) -> bool) -> StatusResponse {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = self.status(id).await.expect("status");
            if holds(&status) {
                return status;
            }
            assert!(Instant::now() < deadline, "{id} is still {status:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub async fn healthy(&mut self) -> Result<(), String> {
        let health = self.runtime.health(HealthRequest {}).await.expect("health").into_inner();
        if health.healthy { Ok(()) } else { Err(health.message) }
    }

    /// All chunks of a finished (or, with follow, finishing) execution.
    pub async fn logs(&mut self, request: LogsRequest) -> Vec<LogChunk> {
        let mut stream = self.events.logs(request).await.expect("logs").into_inner();
        let mut chunks = Vec::new();
        while let Some(chunk) = stream.message().await.expect("chunk") {
            chunks.push(chunk);
        }
        chunks
    }

    /// Ends the server without a chance to clean up.
    pub fn kill(&mut self) {
        signal(self.pid(), "KILL");
        self.child.wait().expect("reaped");
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A request with a command line.
pub fn job(id: &str, args: &[&str]) -> ExecuteRequest {
    let args = args.iter().map(ToString::to_string).collect();
    ExecuteRequest { id: id.into(), args, attempt: 1, assignment: 1, ..ExecuteRequest::default() }
}

/// A request with a bash script.
pub fn script(id: &str, text: &str) -> ExecuteRequest {
    job(id, &["bash", "-c", text])
}

/// Waits for something that takes a moment.
pub async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}: not in time");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A channel to the socket, as soon as somebody listens there.
pub async fn connect(socket_dir: &Path) -> Channel {
    let path = socket_dir.join(SOCKET_FILE);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let path = path.clone();
        let connector = tower::service_fn(move |_| {
            let path = path.clone();
            async move { tokio::net::UnixStream::connect(path).await.map(TokioIo::new) }
        });
        let endpoint = Endpoint::from_static("http://socket");
        match endpoint.connect_with_connector(connector).await {
            Ok(channel) => return channel,
            Err(error) => assert!(Instant::now() < deadline, "no server: {error:?}"),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub fn write_token(socket_dir: &Path, token: [u8; 32]) {
    let hex: String = token.iter().map(|byte| format!("{byte:02x}")).collect();
    let temporary = socket_dir.join("token.new");
    std::fs::write(&temporary, hex).expect("token");
    std::fs::rename(temporary, socket_dir.join(TOKEN_FILE)).expect("token");
}

/// Leaves a token, connects, checks the server's proof and returns our own.
pub async fn authenticate(socket_dir: &Path, token: [u8; 32]) -> (Channel, Session) {
    write_token(socket_dir, token);
    let channel = connect(socket_dir).await;
    let nonce = vec![0x5c; 32];
    let request = AuthenticateRequest { client_nonce: nonce.clone() };
    let answer = RuntimeEventsClient::new(channel.clone()).authenticate(request).await;
    let answer = answer.expect("authenticates").into_inner();
    let proof = |context: &[u8]| {
        let mut mac = Hmac::<Sha256>::new_from_slice(&token).expect("key");
        mac.update(&[context, &nonce, &answer.server_nonce].concat());
        mac.finalize().into_bytes().to_vec()
    };
    assert_eq!(proof(SERVER_CONTEXT), answer.server_proof, "the server knows the token");
    (channel, Session { proof: proof(CLIENT_CONTEXT), nonce })
}

/// What one stream of `chunks` says, checked to be without gap from `offset` on.
pub fn joined(chunks: &[LogChunk], stream: Stream, mut offset: u64) -> Vec<u8> {
    let mut data = Vec::new();
    for chunk in chunks.iter().filter(|chunk| chunk.stream() == stream) {
        assert_eq!(chunk.offset, offset);
        offset += chunk.data.len() as u64;
        data.extend(&chunk.data);
    }
    data
}

pub fn signal(pid: i32, name: &str) {
    assert!(pid > 1);
    let status = Command::new("kill").arg(format!("-{name}")).arg(pid.to_string()).status();
    assert!(status.expect("kill runs").success());
}

pub fn children(pid: i32) -> Vec<i32> {
    let mut found = Vec::new();
    for thread in std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
        let text = std::fs::read_to_string(thread.path().join("children")).unwrap_or_default();
        found.extend(text.split_whitespace().filter_map(|word| word.parse::<i32>().ok()));
    }
    found
}

/// Processes whose command line holds `marker`, anywhere below this PID namespace.
pub fn marked(marker: &str) -> Vec<i32> {
    let entries = std::fs::read_dir("/proc").expect("/proc");
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.windows(marker.len()).any(|window| window == marker.as_bytes())
    })
    .collect()
}

/// Resident memory, bytes.
pub fn resident(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("number") * 1024
}

/// Fails instead of hanging.
pub async fn in_time<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("in time")
}
