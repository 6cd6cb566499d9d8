//! What both programs' command lines share.

use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};

use clap::Args;
use kruntimes_daemon::{AddressError, LogFormat, parse_address, parse_bind_ip};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

/// Flags of both programs.
#[derive(Debug, Clone, Args)]
pub struct Common {
    /// Kubeconfig file; default: $KUBECONFIG, else ~/.kube/config, else the service account of the Pod.
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<String>,
    /// IP that addresses without a host listen on.
    #[arg(long, env = "KRUNTIME_BIND_ADDRESS", default_value = "0.0.0.0")]
    pub bind_address: String,
    /// Work in this namespace only; default: in all.
    #[arg(long)]
    pub namespace: Option<String>,
    /// Work only while holding the Lease, for several replicas.
    #[arg(long, default_value = "false", default_missing_value = "true", num_args = 0..=1, require_equals = true,
          action = clap::ArgAction::Set)]
    pub leader_elect: bool,
    /// Namespace of the Lease; default: the Pod's, else "default".
    #[arg(long, env = "POD_NAMESPACE", default_value = "default")]
    pub leader_elect_namespace: String,
    /// Name of the Lease; default: the program's baseline name.
    #[arg(long)]
    pub leader_elect_lease: Option<String>,
    /// How logs look: json, text or auto (text on a terminal).
    #[arg(long, default_value = "auto")]
    pub log_format: LogFormat,
}

impl Common {
    /// The address of a flag such as `:8080`; `None` is off.
    ///
    /// # Errors
    /// When the address or the bind address is malformed.
    pub fn address(&self, text: &str) -> Result<Option<SocketAddr>, AddressError> {
        let ip: IpAddr = parse_bind_ip(&self.bind_address)?;
        parse_address(text, ip)
    }

    /// A client for the API that the flags name.
    ///
    /// # Errors
    /// When no configuration is found or it cannot be used.
    pub async fn client(&self) -> anyhow::Result<Client> {
        let config = match &self.kubeconfig {
            Some(path) => {
                let file = Kubeconfig::read_from(path)?;
                Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?
            }
            None => Config::infer().await?,
        };
        Ok(Client::try_from(config)?)
    }
}

/// Go's flag syntax: one dash does for two.
pub fn go_flags(args: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let double = |arg: OsString| match arg.to_str() {
        Some(text) if text.len() > 2 && text.starts_with('-') && !text.starts_with("--") => {
            format!("-{text}").into()
        }
        _ => arg,
    };
    args.into_iter().map(double).collect()
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        common: Common,
    }

    #[test]
    fn go_spellings_are_understood() {
        let parse = |args: &[&str]| {
            let args = args.iter().map(OsString::from);
            Program::try_parse_from(go_flags([OsString::from("program")].into_iter().chain(args)))
                .map(|program| program.common)
                .map_err(|error| error.to_string())
        };
        assert!(!parse(&[]).unwrap().leader_elect);
        assert!(parse(&["-leader-elect"]).unwrap().leader_elect);
        assert!(parse(&["--leader-elect=true"]).unwrap().leader_elect);
        assert!(!parse(&["--leader-elect=false"]).unwrap().leader_elect);
        assert_eq!(parse(&["-kubeconfig", "x"]).unwrap().kubeconfig.as_deref(), Some("x"));
        assert!(parse(&["--nonsense"]).is_err());
        let common = parse(&["--bind-address", "127.0.0.9"]).unwrap();
        assert_eq!(common.address(":8080").unwrap().unwrap().to_string(), "127.0.0.9:8080");
    }
}
