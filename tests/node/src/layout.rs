//! Where the files of one node lie and which addresses it uses: the facts that every component's flags are made from.

use std::net::TcpListener;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

/// What runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    /// etcd and kube-apiserver on the host's loopback: no Pods run, no root is needed.
    Api,
    /// A whole node in its own namespaces.
    Full,
}

/// The facts of one node. All paths are the same inside and outside its mount namespace.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Layout {
    pub mode: Mode,
    /// The state folder: everything the node writes, but its cgroups, lies below it.
    pub folder: PathBuf,
    /// The folder of the Kubernetes components.
    pub programs: PathBuf,
    /// The API server's port, on loopback.
    pub port: u16,
    /// etcd's client and peer ports, on loopback.
    pub etcd_ports: (u16, u16),
    /// The cgroup that holds all Pods, in every hierarchy.
    pub cgroup: String,
}

impl Layout {
    /// Chooses free ports. The API server's comes back as the socket that holds it: the forwarder goes on listening on it.
    pub fn choose(mode: Mode, folder: &Path, programs: PathBuf) -> Result<(Self, TcpListener)> {
        let api = free_port()?;
        let etcd = [free_port()?, free_port()?];
        let layout = Self {
            mode,
            folder: folder.to_owned(),
            programs,
            port: api.local_addr()?.port(),
            etcd_ports: match mode {
                Mode::Api => (etcd[0].local_addr()?.port(), etcd[1].local_addr()?.port()),
                // A network of its own: nobody else is there.
                Mode::Full => (2379, 2380),
            },
            cgroup: format!("kruntimes-node-{}", std::process::id()),
        };
        Ok((layout, api))
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.join("kubeconfig")
    }

    pub fn path(&self, below: &str) -> String {
        self.folder.join(below).display().to_string()
    }

    /// Where a component's output goes.
    pub fn log(&self, component: &str) -> PathBuf {
        self.folder.join("logs").join(format!("{component}.log"))
    }

    /// The components in the order of their start.
    pub fn components(&self) -> &'static [&'static str] {
        match self.mode {
            Mode::Api => &["etcd", "kube-apiserver"],
            Mode::Full => &[
                "etcd",
                "kube-apiserver",
                "containerd",
                "kube-controller-manager",
                "kube-scheduler",
                "kube-proxy",
                "kubelet",
            ],
        }
    }
}

fn free_port() -> Result<TcpListener> {
    TcpListener::bind("127.0.0.1:0").context("no free port on loopback")
}
