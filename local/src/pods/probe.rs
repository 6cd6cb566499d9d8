//! Probes: TCP, HTTP and commands, with a kubelet's periods and thresholds.

use std::net::Ipv4Addr;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::container::{Launch, Output};
use super::volumes::real_path;
use super::worker::{Event, Start};
use crate::object::{list, text};

/// A container that was never ready is asked this often, whatever its probe says: nothing is gained by
/// waiting on one machine, and a first start is what people look at.
const EAGER: Duration = Duration::from_millis(100);

/// Most of an HTTP answer that is read for its status line.
const STATUS_LINE: usize = 512;

/// What a probe decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    Startup,
    Readiness,
    Liveness,
}

impl Purpose {
    pub fn member(self) -> &'static str {
        match self {
            Self::Startup => "startupProbe",
            Self::Readiness => "readinessProbe",
            Self::Liveness => "livenessProbe",
        }
    }
}

enum Check {
    Tcp(String, u16),
    Http {
        host: String,
        port: u16,
        path: String,
    },
    Exec(Box<Launch>),
    /// A probe that cannot be done here fails with this sentence.
    Unknown(&'static str),
}

/// A probe with its times.
pub struct Probe {
    purpose: Purpose,
    check: Check,
    delay: Duration,
    period: Duration,
    timeout: Duration,
    successes: u64,
    failures: u64,
}

impl Probe {
    /// The probe of `container` for `purpose`, if it has one. `launch` is how the container was started.
    pub fn of(container: &Value, purpose: Purpose, ip: Ipv4Addr, launch: &Launch) -> Option<Self> {
        let probe = container.get(purpose.member())?;
        let number = |key: &str, default: u64| probe[key].as_u64().unwrap_or(default);
        let host = |pointer: &str| match text(probe, pointer) {
            "" => ip.to_string(),
            host => host.to_owned(),
        };
        let check = if let Some(tcp) = probe.get("tcpSocket") {
            Check::Tcp(host("/tcpSocket/host"), port(container, &tcp["port"]))
        } else if let Some(http) = probe.get("httpGet") {
            let path = match text(http, "/path") {
                "" => "/".to_owned(),
                path => path.to_owned(),
            };
            Check::Http { host: host("/httpGet/host"), port: port(container, &http["port"]), path }
        } else if probe.get("exec").is_some() {
            let mut words = list(probe, "/exec/command").iter().filter_map(Value::as_str);
            let mut launch = launch.clone();
            launch.lock = launch.lock.with_extension(format!("{}.lock", purpose.member()));
            launch.program = words.next().unwrap_or_default().into();
            launch.args = words.map(|word| real_path(word, &launch.mounts)).collect();
            Check::Exec(Box::new(launch))
        } else {
            Check::Unknown("the local platform has probes by tcpSocket, httpGet and exec only")
        };
        Some(Self {
            purpose,
            check,
            delay: Duration::from_secs(number("initialDelaySeconds", 0)),
            period: Duration::from_secs(number("periodSeconds", 10).max(1)),
            timeout: Duration::from_secs(number("timeoutSeconds", 1).max(1)),
            successes: number("successThreshold", 1).max(1),
            failures: number("failureThreshold", 3).max(1),
        })
    }

    /// Probes until `stop`, and tells every change of the verdict.
    pub async fn run(self, start: Start, events: mpsc::UnboundedSender<Event>, stop: CancellationToken) {
        let mut verdict: Option<bool> = None;
        let (mut good, mut bad) = (0u64, 0u64);
        let eager = self.purpose != Purpose::Liveness;
        let mut pause = if eager { self.delay.min(EAGER) } else { self.delay };
        let begun = tokio::time::Instant::now();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            let result = match tokio::time::timeout(self.timeout, self.check.once()).await {
                Ok(result) => result,
                Err(_) => Err(format!("no answer within {}s", self.timeout.as_secs())),
            };
            let waiting = eager && verdict != Some(true);
            match &result {
                Ok(()) => (good, bad) = (good + 1, 0),
                // Failures before the probe would have begun, or between its periods, do not count.
                Err(_) if waiting && begun.elapsed() < self.delay + self.period * (bad as u32 + 1) => {
                    good = 0
                }
                Err(_) => (good, bad) = (0, bad + 1),
            }
            let now = match result {
                Ok(()) if good >= self.successes => Some(true),
                Err(_) if bad >= self.failures => Some(false),
                _ => verdict,
            };
            let news = now != verdict || (now == Some(false) && self.purpose != Purpose::Readiness);
            if news && let Some(healthy) = now {
                let event = Event::Probed { start, purpose: self.purpose, healthy, why: result.err() };
                if events.send(event).is_err() || (self.purpose == Purpose::Startup && healthy) {
                    return;
                }
            }
            verdict = now;
            pause = if eager && verdict != Some(true) { EAGER } else { self.period };
        }
    }
}

/// A port by number or by its name in the container.
fn port(container: &Value, port: &Value) -> u16 {
    let number = match port {
        Value::String(name) => list(container, "/ports")
            .iter()
            .find(|p| text(p, "/name") == name)
            .and_then(|p| p["containerPort"].as_u64())
            .or_else(|| name.parse().ok()),
        other => other.as_u64(),
    };
    number.and_then(|n| u16::try_from(n).ok()).unwrap_or(0)
}

impl Check {
    async fn once(&self) -> Result<(), String> {
        match self {
            Self::Tcp(host, port) => {
                let stream = TcpStream::connect((host.as_str(), *port)).await;
                stream.map(drop).map_err(|e| format!("dial tcp {host}:{port}: {e}"))
            }
            Self::Http { host, port, path } => {
                let code = http_status(host, *port, path)
                    .await
                    .map_err(|e| format!("Get {host}:{port}{path}: {e}"))?;
                if (200..400).contains(&code) {
                    Ok(())
                } else {
                    Err(format!("HTTP probe failed with statuscode: {code}"))
                }
            }
            Self::Exec(launch) => {
                let mut process = launch.start(Output::Nowhere).map_err(|e| e.to_string())?;
                match process.wait().await {
                    0 => Ok(()),
                    code => Err(format!("command exited with {code}")),
                }
            }
            Self::Unknown(why) => Err((*why).to_owned()),
        }
    }
}

/// The status code of one plain HTTP/1.1 GET.
async fn http_status(host: &str, port: u16, path: &str) -> Result<u16, std::io::Error> {
    let mut stream = TcpStream::connect((host, port)).await?;
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nUser-Agent: kube-probe/local\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    while !answer.contains(&b'\n') && answer.len() < STATUS_LINE {
        let mut buffer = [0u8; STATUS_LINE];
        match stream.read(&mut buffer).await? {
            0 => break,
            count => answer.extend_from_slice(&buffer[..count]),
        }
    }
    let line = String::from_utf8_lossy(&answer);
    let code = line.split_whitespace().nth(1).and_then(|code| code.parse().ok());
    code.ok_or_else(|| std::io::Error::other("malformed HTTP answer"))
}
