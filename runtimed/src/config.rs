//! Flags and environment.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use kruntimes_api::duration;
use kruntimes_api::runtime::{RequiredIsolation, RunBounds};
use kruntimes_daemon::{AddressError, parse_bind_ip};

use crate::source::GitSettings;

/// Sidecar of a Runtime Pod: carries out the Runs that are bound to it.
#[derive(Debug, Clone, Parser)]
#[command(name = "runtimed", version = kruntimes_daemon::version())]
pub struct Config {
    /// Name of this Pod.
    #[arg(long, env = "POD_NAME")]
    pub pod_name: Option<String>,
    /// Fallback for the Pod's name.
    #[arg(long, env = "HOSTNAME", hide = true)]
    pub hostname: Option<String>,
    /// Namespace of this Pod.
    #[arg(long, env = "POD_NAMESPACE", default_value = "default")]
    pub pod_namespace: String,
    /// UID of this Pod.
    #[arg(long, env = "POD_UID")]
    pub pod_uid: String,
    /// Name of the Runtime of this Pod.
    #[arg(long, default_value = "")]
    pub runtime_name: String,
    /// Folder of the Runs' workspaces, shared with the Runtime Server.
    #[arg(long, env = "KRUNTIME_WORK_DIR", default_value = "/workspace")]
    pub work_dir: PathBuf,
    /// Folder of socket and token, shared with the Runtime Server.
    #[arg(long, env = kruntimes_proto::SOCKET_DIR_ENV)]
    pub socket_dir: Option<PathBuf>,
    /// Address of a Runtime Server that does not listen on the socket.
    #[arg(long, default_value = "localhost:9091")]
    pub runtime_endpoint: String,
    /// Kubeconfig; default: $KUBECONFIG, else the Pod's service account.
    #[arg(long)]
    pub kubeconfig: Option<PathBuf>,
    /// IP to listen on where an address names none.
    #[arg(long, env = kruntimes_daemon::BIND_ADDRESS_ENV, default_value = "")]
    pub bind_address: String,
    /// Address of /metrics.
    #[arg(long, default_value = ":9090")]
    pub metrics_bind_address: String,
    /// Address of /healthz and /readyz.
    #[arg(long, default_value = ":9094")]
    pub health_probe_bind_address: String,
    /// json, text or auto.
    #[arg(long, default_value = "json")]
    pub log_format: kruntimes_daemon::LogFormat,
    /// runDefaults of the Runtime, as JSON.
    #[arg(long, value_parser = json::<RunBounds>)]
    pub run_defaults: Option<RunBounds>,
    /// isolation.require of the Runtime, as JSON: axis to Hard, Soft or None.
    #[arg(long, value_parser = json::<RequiredIsolation>)]
    pub require_isolation: Option<RequiredIsolation>,
    /// Between TERM and KILL of a Run.
    #[arg(long, default_value = "10s", value_parser = go_duration)]
    pub grace: Duration,
    /// The Pod's terminationGracePeriodSeconds.
    #[arg(long, env = "KRUNTIME_TERMINATION_GRACE_SECONDS", default_value_t = 30)]
    pub termination_grace_seconds: u64,
    /// Sources fetched at once.
    #[arg(long, default_value_t = 8)]
    pub workers: usize,
    /// The git program.
    #[arg(long, default_value = "git")]
    pub git: PathBuf,
    /// PEM file with the CA of private Git servers.
    #[arg(long)]
    pub git_ca_file: Option<PathBuf>,
    /// Credentials for Git over https, in the format of git's credential store.
    #[arg(long)]
    pub git_credentials_file: Option<PathBuf>,
    /// Private key for Git over ssh.
    #[arg(long)]
    pub git_ssh_key_file: Option<PathBuf>,
    /// Known host keys for Git over ssh; without it no host is trusted.
    #[arg(long)]
    pub git_known_hosts_file: Option<PathBuf>,
    /// Longest time for fetching a Git source.
    #[arg(long, default_value = "30s", value_parser = go_duration)]
    pub git_timeout: Duration,
    /// Largest checked-out tree, in bytes.
    #[arg(long, default_value_t = 100 << 20)]
    pub git_max_tree_bytes: u64,
    #[command(flatten)]
    pub baseline: Baseline,
}

/// Flags of the original that are understood but serve nothing yet.
#[derive(Debug, Clone, clap::Args)]
pub struct Baseline {
    /// Not available yet: the unauthenticated status port.
    #[arg(long, hide = true)]
    status_addr: Option<String>,
    /// Not available yet: artifact store.
    #[arg(long, default_value = "", hide = true)]
    pub artifact_store_driver: String,
    #[arg(long, hide = true)]
    artifact_store_root: Option<String>,
    #[arg(long, hide = true)]
    artifact_volume_claim: Option<String>,
    #[arg(long, hide = true)]
    artifact_s3_bucket: Option<String>,
    #[arg(long, hide = true)]
    artifact_s3_prefix: Option<String>,
    #[arg(long, hide = true)]
    artifact_s3_region: Option<String>,
    #[arg(long, hide = true)]
    artifact_s3_endpoint: Option<String>,
    #[arg(long, hide = true, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    artifact_s3_force_path_style: Option<String>,
    #[arg(long, hide = true)]
    artifact_s3_credentials_secret_name: Option<String>,
    #[arg(long, hide = true)]
    artifact_s3_upload_part_size: Option<String>,
    #[arg(long, hide = true)]
    artifact_s3_upload_concurrency: Option<String>,
    #[arg(long, hide = true)]
    max_artifact_bytes: Option<String>,
    #[arg(long, hide = true)]
    max_artifacts_bytes: Option<String>,
}

/// A flag that makes no sense. Permanent.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Needed and absent.
    #[error("{0} is required")]
    Missing(&'static str),
    /// Understood, but nothing is behind it yet.
    #[error("{flag} is not available yet: {why}")]
    NotAvailable {
        /// Which.
        flag: &'static str,
        /// Why it is refused rather than ignored.
        why: &'static str,
    },
}

impl Config {
    /// From the command line, in our form or Go's (`-flag`, `--flag=value`).
    pub fn from_command_line(args: impl Iterator<Item = OsString>) -> Result<Self, clap::Error> {
        Self::try_parse_from(go_flags(args))
    }

    /// Name of this Pod, from the flag, `POD_NAME` or `HOSTNAME`.
    ///
    /// # Errors
    /// When none is set.
    pub fn pod(&self) -> Result<String, ConfigError> {
        let name = self.pod_name.clone().filter(|name| !name.is_empty());
        name.or_else(|| self.hostname.clone()).ok_or(ConfigError::Missing("--pod-name (or POD_NAME)"))
    }

    /// Beside the socket, where Runs cannot reach; else in a folder that carries our Pod's uid,
    /// since the volume may be shared with other Pods.
    pub fn journal_folder(&self) -> PathBuf {
        match &self.socket_dir {
            Some(dir) => dir.join("attempts"),
            None => self.work_dir.join(format!(".runtimed-{}", self.pod_uid)),
        }
    }

    /// Address of a server over TCP. Where several Pods share one machine, `localhost` is not
    /// the Pod's: the address that all of the Pod listens on is.
    ///
    /// # Errors
    /// When the bind address is none.
    pub fn endpoint(&self) -> Result<String, AddressError> {
        let ip = parse_bind_ip(&self.bind_address)?;
        Ok(match self.runtime_endpoint.strip_prefix("localhost:") {
            Some(port) if !ip.is_unspecified() && ip.is_ipv6() => format!("[{ip}]:{port}"),
            Some(port) if !ip.is_unspecified() => format!("{ip}:{port}"),
            _ => self.runtime_endpoint.clone(),
        })
    }

    /// How sources are fetched.
    pub fn git_settings(&self) -> GitSettings {
        GitSettings {
            program: self.git.clone(),
            ca_file: self.git_ca_file.clone(),
            credentials_file: self.git_credentials_file.clone(),
            ssh_key: self.git_ssh_key_file.clone(),
            known_hosts: self.git_known_hosts_file.clone(),
            clone_timeout: self.git_timeout,
            max_tree: self.git_max_tree_bytes,
            parallel: self.workers,
            allow_file: false,
        }
    }

    /// Refuses what would be silently without effect.
    ///
    /// # Errors
    /// Names the flag.
    pub fn check(&self) -> Result<(), ConfigError> {
        if self.pod_uid.is_empty() {
            return Err(ConfigError::Missing("--pod-uid (or POD_UID)"));
        }
        if !self.baseline.artifact_store_driver.is_empty() {
            let why = "artifacts would be lost";
            return Err(ConfigError::NotAvailable { flag: "--artifact-store-driver", why });
        }
        if self.baseline.status_addr.as_deref().is_some_and(|address| !matches!(address, "" | "0")) {
            let why = "read logs through the API instead";
            return Err(ConfigError::NotAvailable { flag: "--status-addr", why });
        }
        Ok(())
    }
}

/// Logging flags of Go programs, and whether a value of their own follows.
const KLOG: [(&str, bool); 13] = [
    ("v", true),
    ("vmodule", true),
    ("log_backtrace_at", true),
    ("log_dir", true),
    ("log_file", true),
    ("log_file_max_size", true),
    ("stderrthreshold", true),
    ("logtostderr", false),
    ("alsologtostderr", false),
    ("skip_headers", false),
    ("skip_log_headers", false),
    ("add_dir_header", false),
    ("one_output", false),
];

/// One dash becomes two; Go's logging flags are dropped.
fn go_flags(args: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut kept: Vec<OsString> = Vec::new();
    let mut args = args.enumerate();
    while let Some((index, arg)) = args.next() {
        let Some(text) = arg.to_str().filter(|text| index > 0 && text.starts_with('-') && text.len() > 1)
        else {
            kept.push(arg);
            continue;
        };
        let flag = text.trim_start_matches('-');
        let name = flag.split_once('=').map_or(flag, |(name, _)| name);
        if let Some((_, takes_value)) = KLOG.iter().find(|(klog, _)| *klog == name) {
            if *takes_value && !flag.contains('=') {
                args.next();
            }
            continue;
        }
        // Short flags are -h and -V alone.
        let long = !text.starts_with("--") && flag.len() > 1;
        kept.push(if long { format!("--{flag}").into() } else { arg });
    }
    kept
}

fn go_duration(text: &str) -> Result<Duration, String> {
    duration::parse(text).map_err(|error| error.to_string())
}

fn json<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_json::from_str(text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use kruntimes_api::run::IsolationLevel;

    fn parse(args: &[&str]) -> Result<Config, clap::Error> {
        let all = ["runtimed", "--pod-uid=u", "--pod-name=p"].into_iter().chain(args.iter().copied());
        Config::from_command_line(all.map(OsString::from))
    }

    #[test]
    fn flags_of_the_original_are_understood() {
        let config = parse(&[
            "-runtime-endpoint=127.0.0.1:1",
            "--runtime-name",
            "bash",
            "-v=4",
            "--v",
            "2",
            "-logtostderr",
            "--workers=3",
            "--artifact-s3-force-path-style",
            "--max-artifact-bytes=1",
            "--metrics-bind-address=:0",
        ])
        .unwrap();
        assert_eq!(
            (&*config.runtime_endpoint, &*config.runtime_name, config.workers),
            ("127.0.0.1:1", "bash", 3)
        );
        config.check().unwrap();
        let with_store = parse(&["--artifact-store-driver=s3"]).unwrap();
        assert!(with_store.check().unwrap_err().to_string().contains("--artifact-store-driver"));
    }

    #[test]
    fn localhost_is_the_pods_own_address() {
        assert_eq!(parse(&[]).unwrap().endpoint().unwrap(), "localhost:9091");
        assert_eq!(parse(&["--bind-address=127.3.2.1"]).unwrap().endpoint().unwrap(), "127.3.2.1:9091");
        let elsewhere = parse(&["--bind-address=127.3.2.1", "--runtime-endpoint=10.0.0.1:1"]).unwrap();
        assert_eq!(elsewhere.endpoint().unwrap(), "10.0.0.1:1");
    }

    #[test]
    fn json_flags_and_durations_are_checked() {
        let config = parse(&[
            "--run-defaults={\"timeout\":\"5s\"}",
            "--require-isolation={\"kill\":\"Hard\"}",
            "--grace=1m",
        ])
        .unwrap();
        assert_eq!(config.run_defaults.unwrap().timeout.as_deref(), Some("5s"));
        assert_eq!(config.require_isolation.unwrap().kill, Some(IsolationLevel::Hard));
        assert_eq!(config.grace, Duration::from_secs(60));
        assert!(parse(&["--run-defaults=nonsense"]).unwrap_err().to_string().contains("--run-defaults"));
        assert!(parse(&["--grace=abc"]).is_err());
    }
}
