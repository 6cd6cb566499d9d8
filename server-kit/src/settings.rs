//! The flags that every server of the kit has.

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use kruntimes_daemon::{BIND_ADDRESS_ENV, LogFormat, parse_bind_ip};
use kruntimes_proto::SOCKET_DIR_ENV;
use kruntimes_resources::{Definition, names};

use crate::isolation::{AtMost, IdRange, ParentFlag, Wanted};

/// Flags of a Runtime Server. The baseline's `--port` and `--work-dir` are among them; its
/// single-dash forms and logging flags are understood, the latter without effect.
#[derive(Clone, Debug, Parser)]
#[command(about = "A kruntimes Runtime Server", long_about = None, args_override_self = true)]
pub struct Settings {
    /// TCP port; with a socket directory it answers only health checks
    #[arg(long, default_value_t = 9091)]
    pub port: u16,
    /// IP address to listen on
    #[arg(long, env = BIND_ADDRESS_ENV, default_value = "", value_parser = parse_bind_ip)]
    pub bind_address: IpAddr,
    /// Directory of the Runs' working directories, and of output that does not fit into memory
    #[arg(long, env = "KRUNTIME_WORK_DIR", default_value = "/workspace")]
    pub work_dir: PathBuf,
    /// Directory shared with runtimed: calls are taken on a unix socket there, from who proves its token
    #[arg(long, env = SOCKET_DIR_ENV)]
    pub socket_dir: Option<PathBuf>,
    /// Address of /metrics, /healthz and /readyz, for instance ":9092"; 0 is none
    #[arg(long, default_value = "0")]
    pub metrics_bind_address: String,
    /// Seconds between TERM and KILL when the caller does not say
    #[arg(long, default_value = "10", value_parser = seconds)]
    pub grace: Duration,
    /// Seconds that running executions may go on after this server got TERM
    #[arg(long, default_value = "25", value_parser = seconds)]
    pub shutdown_grace: Duration,
    /// Seconds between usage snapshots of running executions, and between looks at the devices, while somebody watches
    #[arg(long, default_value = "10", value_parser = seconds)]
    pub usage_interval: Duration,
    /// Executions at once; more where --resources defines more slots (`runs`)
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub max_executions: u32,
    /// Finished executions kept until they are forgotten; then new ones are refused
    #[arg(long, default_value_t = 4096, value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    pub max_finished: u32,
    /// Bytes kept of each output stream: its first and its last half
    #[arg(long, default_value_t = 16 * 1024 * 1024)]
    pub max_output_bytes: u64,
    /// Processes kept ready for the next executions; after a burst, up to twice as many
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub idle_supervisors: u16,
    /// Where control groups for Runs are made: "own" is below the group that this server is started in, "none"
    /// is nowhere, a path is seen from the root of each hierarchy
    #[arg(long, env = "KRUNTIME_CGROUP_PARENT", default_value = "own")]
    pub(crate) cgroup_parent: ParentFlag,
    /// Variables of this server's environment that Runs may see as well, beside those that KRUNTIME_PASS_ENV names; joined by
    /// commas, a trailing * stands for any ending
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    pub pass_env: Vec<String>,
    /// What Runs can ask for here: JSON, a list of {name, kind, amount, devices, env}
    #[arg(long, env = RESOURCES_ENV, hide_env_values = true, default_value = "", value_name = "JSON", value_parser = definitions)]
    pub resources: Definitions,
    /// The network of Runs: shared (the Pod's) or none
    #[arg(long, env = "KRUNTIME_RUN_NETWORK", default_value = "shared", ignore_case = true)]
    pub run_network: RunNetwork,
    /// Folders that every Run may write to beside its own; comma-separated
    #[arg(long, env = "KRUNTIME_SHARED_PATHS", value_name = "PATH", value_delimiter = ',')]
    pub shared_path: Vec<PathBuf>,
    /// User ids for Runs, one each, where this server may give them out
    #[arg(long, env = "KRUNTIME_RUN_IDS", value_name = "FIRST-LAST", default_value_t = IdRange::DEFAULT)]
    pub(crate) run_ids: IdRange,
    /// Keeps a Run apart by this at most, for instance files=landlock; comma-separated, once per axis
    #[arg(long, env = "KRUNTIME_ISOLATION", value_name = "AXIS=MECHANISM", value_delimiter = ',')]
    pub(crate) isolation: Vec<AtMost>,
    /// Print what would keep Runs apart here as one line of JSON, and end
    #[arg(long)]
    pub probe: bool,
    /// json, text or auto
    #[arg(long, default_value_t = LogFormat::Auto)]
    pub log_format: LogFormat,
}

/// The variable by which the controller tells what a Pod offers.
/// Names, joined by commas, as [`Settings::pass_env`]: the pool's, beside those of the image's own flag.
pub(crate) const PASS_ENV: &str = "KRUNTIME_PASS_ENV";
const RESOURCES_ENV: &str = "KRUNTIME_RESOURCES";

/// Resources as one flag carries them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Definitions(pub Vec<Definition>);

fn definitions(text: &str) -> Result<Definitions, String> {
    if text.is_empty() {
        return Ok(Definitions::default());
    }
    let definitions: Vec<Definition> = serde_json::from_str(text).map_err(|error| error.to_string())?;
    definitions.iter().try_for_each(Definition::check).map_err(|error| error.to_string())?;
    Ok(Definitions(definitions))
}

/// What of the network Runs see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RunNetwork {
    /// The Pod's.
    Shared,
    /// Nothing but a loopback of their own.
    None,
}

impl Settings {
    /// Whether Runs can ask for a resource of that name, as the controller tells it.
    pub(crate) fn offers(&self, name: &str) -> bool {
        self.resources.0.iter().any(|definition| definition.name == name)
    }

    /// Executions at once.
    pub(crate) fn executions(&self) -> usize {
        let slots = self.resources.0.iter().find(|definition| definition.name == names::RUNS);
        let slots = slots.and_then(|definition| usize::try_from(definition.amount.ceil()).ok());
        slots.unwrap_or(0).max(self.max_executions as usize)
    }

    /// What the ladder is to look for.
    /// `leasable` is what Runs lease that has a path, which may be a link (`/dev/disk/by-id/..`): it is about what that leads to.
    pub(crate) fn wanted(&self, mut leasable: Vec<PathBuf>) -> Wanted {
        let defined = self.resources.0.iter().flat_map(|definition| &definition.devices);
        leasable.extend(defined.filter(|id| id.starts_with('/')).map(PathBuf::from));
        let leasable = leasable.into_iter().map(|path| path.canonicalize().unwrap_or(path)).collect();
        Wanted {
            leasable,
            work_dir: self.work_dir.clone(),
            socket_dir: self.socket_dir.clone(),
            shared: self.shared_path.clone(),
            no_network: self.run_network == RunNetwork::None,
            bandwidth: self.offers(names::NETWORK_BANDWIDTH),
            at_most: self.isolation.clone(),
            ids: self.run_ids,
        }
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: u32 = text.parse().map_err(|_| format!("{text:?} is not a number of seconds"))?;
    Ok(Duration::from_secs(seconds.into()))
}

/// Flags of the Go logging library that take a value, and those that do not need one.
const KLOG_VALUES: &[&str] =
    &["v", "vmodule", "stderrthreshold", "log_dir", "log_file", "log_file_max_size", "log_backtrace_at"];
const KLOG_SWITCHES: &[&str] =
    &["logtostderr", "alsologtostderr", "skip_headers", "skip_log_headers", "add_dir_header", "one_output"];

/// Go's flags in the form that clap reads: one dash or two, logging flags left out.
pub(crate) fn normalise(args: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut normal = Vec::new();
    let mut args = args.fuse();
    normal.extend(args.next());
    while let Some(arg) = args.next() {
        let Some((name, has_value)) = flag_name(&arg) else {
            normal.push(arg);
            continue;
        };
        if KLOG_VALUES.contains(&name) {
            if !has_value {
                args.next();
            }
        } else if !KLOG_SWITCHES.contains(&name) {
            let single = !arg.as_encoded_bytes().starts_with(b"--") && name.len() > 1;
            let mut full = OsString::from(if single { "-" } else { "" });
            full.push(arg);
            normal.push(full);
        }
    }
    normal
}

/// The name of a flag without its dashes, and whether a value is joined to it.
fn flag_name(arg: &OsString) -> Option<(&str, bool)> {
    let rest = arg.to_str()?.strip_prefix('-')?;
    let rest = rest.strip_prefix('-').unwrap_or(rest);
    let (name, value) = rest.split_once('=').map_or((rest, false), |(name, _)| (name, true));
    name.starts_with(|c: char| c.is_ascii_alphabetic()).then_some((name, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Settings, clap::Error> {
        let args = ["server"].iter().chain(args).map(OsString::from);
        Settings::try_parse_from(normalise(args))
    }

    #[test]
    fn flags_of_the_original_are_understood() {
        let plain = parse(&["--port", "9191", "--work-dir=/w"]).expect("parses");
        assert_eq!((plain.port, plain.work_dir.to_str()), (9191, Some("/w")));
        let go =
            parse(&["-port=9191", "-v", "2", "--v=4", "-logtostderr", "--log_dir", "/x", "-work-dir", "/w"])
                .expect("parses");
        assert_eq!((go.port, go.work_dir.to_str()), (9191, Some("/w")));
    }

    #[test]
    fn nonsense_is_refused() {
        for args in [&["--port=x"][..], &["--unknown"], &["--max-executions=0"], &["--bind-address=here"]] {
            assert!(parse(args).is_err(), "{args:?}");
        }
        let error =
            parse(&[r#"--resources=[{"name":"x","kind":"Counted","amount":"0.5"}]"#]).expect_err("a half");
        assert!(error.to_string().contains("--resources") && error.to_string().contains("\"x\""), "{error}");
    }

    #[test]
    fn resources_are_read() {
        let flag =
            r#"--resources=[{"name":"x","kind":"Indexed","amount":"1","devices":["/dev/x"],"env":"X"}]"#;
        let Definitions(defined) = parse(&[flag]).expect("parses").resources;
        assert_eq!((&*defined[0].name, &*defined[0].devices[0]), ("x", "/dev/x"));
        assert_eq!(parse(&["--resources="]).expect("parses").resources, Definitions::default());
    }
}
