//! The command line and the configuration files of each component. Every flag that is not plain plumbing says why it is there.

use std::path::Path;

use anyhow::{Result, bail};
use serde_json::json;

use crate::layout::{Layout, Mode};
use crate::process::write;

/// The node's only name, and its address on the Pods' network.
pub const NODE: &str = "node1";
const NODE_ADDRESS: &str = "10.88.0.1";
const PODS: &str = "10.88.0.0/16";
const SERVICES: &str = "10.96.0.0/16";

/// The image of the sandbox container, imported before the kubelet starts.
pub const PAUSE_IMAGE: &str = "localhost/pause:1";

/// Where containerd listens. `/run` inside the node is the node's own.
pub const CONTAINERD: &str = "/run/containerd/containerd.sock";

/// Program and arguments of a component.
pub fn command_line(component: &str, layout: &Layout) -> Result<Vec<String>> {
    let program = match component {
        "containerd" => component.to_owned(),
        _ => layout.programs.join(component).display().to_string(),
    };
    let arguments = match component {
        "etcd" => etcd(layout),
        "kube-apiserver" => api_server(layout),
        "containerd" => vec![format!("--config={}", layout.path("containerd.toml"))],
        "kube-controller-manager" => controller_manager(layout),
        "kube-scheduler" => words(&["--leader-elect=false", "--secure-port=0"], layout),
        "kube-proxy" => proxy(layout),
        "kubelet" => kubelet(layout),
        _ => bail!("no component is called {component:?}: there are {}", layout.components().join(", ")),
    };
    Ok(std::iter::once(program).chain(arguments).collect())
}

/// Writes the configuration files that the components of a full node read.
pub fn configure(layout: &Layout, snapshotter: &str) -> Result<()> {
    let folder = &layout.folder;
    std::fs::create_dir_all(folder.join("cni"))?;
    write(&folder.join("containerd.toml"), containerd_config(layout, snapshotter))?;
    write(&folder.join("cni/10-node.conflist"), serde_json::to_vec_pretty(&pod_network(folder))?)?;
    write(&folder.join("kubelet.json"), serde_json::to_vec_pretty(&kubelet_config(layout))?)
}

fn etcd(layout: &Layout) -> Vec<String> {
    let (clients, peers) = layout.etcd_ports;
    let clients = format!("http://127.0.0.1:{clients}");
    let peers = format!("http://127.0.0.1:{peers}");
    vec![
        format!("--data-dir={}", layout.path("etcd")),
        format!("--listen-client-urls={clients}"),
        format!("--advertise-client-urls={clients}"),
        format!("--listen-peer-urls={peers}"),
        format!("--initial-advertise-peer-urls={peers}"),
        format!("--initial-cluster=default={peers}"),
        // The data is thrown away; a disk that syncs slowly would only make every measurement about that disk.
        "--unsafe-no-fsync".to_owned(),
    ]
}

fn api_server(layout: &Layout) -> Vec<String> {
    let pki = |name: &str| layout.path(&format!("pki/{name}"));
    let mut arguments = vec![
        format!("--etcd-servers=http://127.0.0.1:{}", layout.etcd_ports.0),
        format!("--secure-port={}", layout.port),
        format!("--service-cluster-ip-range={SERVICES}"),
        "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
        format!("--service-account-key-file={}", pki("sa.pub")),
        format!("--service-account-signing-key-file={}", pki("sa.key")),
        "--authorization-mode=RBAC".to_owned(),
        format!("--token-auth-file={}", pki("tokens.csv")),
        format!("--client-ca-file={}", pki("ca.crt")),
        format!("--tls-cert-file={}", pki("server.crt")),
        format!("--tls-private-key-file={}", pki("server.key")),
        "--allow-privileged=true".to_owned(),
        // Or `logs` and `exec` try to resolve the node's name.
        "--kubelet-preferred-address-types=InternalIP".to_owned(),
        "--profiling=false".to_owned(),
    ];
    match layout.mode {
        Mode::Full => arguments.push(format!("--advertise-address={NODE_ADDRESS}")),
        Mode::Api => arguments.extend(
            [
                "--bind-address=127.0.0.1",
                // A loopback address cannot be an endpoint, and nothing here would use it.
                "--endpoint-reconciler-type=none",
                // No controller makes the default service accounts, without which no Pod could be created.
                "--disable-admission-plugins=ServiceAccount",
            ]
            .map(str::to_owned),
        ),
    }
    arguments
}

fn controller_manager(layout: &Layout) -> Vec<String> {
    let mut arguments = words(
        &[
            "--leader-elect=false",
            "--secure-port=0",
            // Tests scale and delete hundreds of Pods at once: the machine is the limit, not the client.
            "--kube-api-qps=200",
            "--kube-api-burst=400",
        ],
        layout,
    );
    arguments.push(format!("--flex-volume-plugin-dir={}", layout.path("var/volume-plugins")));
    arguments.push(format!("--service-account-private-key-file={}", layout.path("pki/sa.key")));
    arguments.push(format!("--root-ca-file={}", layout.path("pki/ca.crt")));
    arguments
}

fn proxy(layout: &Layout) -> Vec<String> {
    let mut arguments = words(
        &[
            "--proxy-mode=nftables",
            // Zero leaves the kernel's values: they belong to the host, and where they are read-only it would exit.
            "--conntrack-max-per-core=0",
            "--conntrack-min=0",
            "--conntrack-tcp-timeout-established=0",
            "--conntrack-tcp-timeout-close-wait=0",
        ],
        layout,
    );
    arguments.push(format!("--cluster-cidr={PODS}"));
    arguments.push(format!("--hostname-override={NODE}"));
    arguments
}

fn kubelet(layout: &Layout) -> Vec<String> {
    let mut arguments = words(&["--root-dir=/var/lib/kubelet", "--cert-dir=/var/lib/kubelet/pki"], layout);
    arguments.push(format!("--config={}", layout.path("kubelet.json")));
    arguments.push(format!("--hostname-override={NODE}"));
    arguments.push(format!("--node-ip={NODE_ADDRESS}"));
    arguments
}

/// Plain flags of a client of the API server, and its kubeconfig.
fn words(flags: &[&str], layout: &Layout) -> Vec<String> {
    let config = format!("--kubeconfig={}", layout.kubeconfig().display());
    flags.iter().map(|&flag| flag.to_owned()).chain([config]).collect()
}

fn kubelet_config(layout: &Layout) -> serde_json::Value {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {"anonymous": {"enabled": true}, "webhook": {"enabled": false}},
        "authorization": {"mode": "AlwaysAllow"},
        "containerRuntimeEndpoint": format!("unix://{CONTAINERD}"),
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": format!("/{}", layout.cgroup),
        "failCgroupV1": false,
        "enforceNodeAllocatable": [],
        "failSwapOn": false,
        "makeIPTablesUtilChains": false,
        // Tolerates what a machine inside a machine may not do: kernel settings, oom scores.
        "featureGates": {"KubeletInUserNamespace": true, "KubeletCrashLoopBackOffMax": true},
        // The fault tests kill the same container many times over, and are not about the kubelet's patience.
        "crashLoopBackOff": {"maxContainerRestartPeriod": "5s"},
        // There is no DNS: a look-up is refused at once instead of hanging, and no Pod sees the host's servers.
        "resolvConf": "",
        "clusterDNS": ["127.0.0.1"],
        "clusterDomain": "cluster.local",
        "maxPods": 250,
        "volumePluginDir": "/var/lib/kubelet/volume-plugins",
        // A developer's disk may be nearly full: that is no reason to evict Pods or to drop images, which nobody could pull again.
        "evictionHard": {"memory.available": "50Mi", "nodefs.available": "1%", "nodefs.inodesFree": "1%", "imagefs.available": "1%"},
        "imageGCHighThresholdPercent": 100,
        "shutdownGracePeriod": "0s",
    })
}

fn pod_network(folder: &Path) -> serde_json::Value {
    json!({
        "cniVersion": "0.4.0",
        "name": "node",
        "plugins": [
            // Each Pod on a wire of its own to the node: every packet is routed there, so that the service rules see the answers of
            // Pods to Pods too. On a bridge they would not, unless the kernel has br_netfilter.
            {
                "type": "ptp",
                "ipMasq": false,
                "ipam": {"type": "host-local", "subnet": PODS, "gateway": NODE_ADDRESS, "dataDir": folder.join("ipam"), "routes": [{"dst": "0.0.0.0/0"}]},
            },
            {"type": "portmap", "capabilities": {"portMappings": true}},
        ],
    })
}

fn containerd_config(layout: &Layout, snapshotter: &str) -> String {
    let Layout { folder, .. } = layout;
    let folder = folder.display();
    format!(
        r#"version = 2
root = "{folder}/containerd/root"
state = "{folder}/containerd/state"
[grpc]
  address = "{CONTAINERD}"
[ttrpc]
  address = "{CONTAINERD}.ttrpc"
[plugins."io.containerd.internal.v1.opt"]
  path = "{folder}/containerd/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE_IMAGE}"
  disable_apparmor = true # a profile would be loaded into the host's kernel
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "{snapshotter}"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{folder}/cni"
"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_component_has_a_command_line() {
        for mode in [Mode::Api, Mode::Full] {
            let (layout, _socket) = Layout::choose(mode, Path::new("/state"), "/programs".into()).unwrap();
            for component in layout.components() {
                let line = command_line(component, &layout).unwrap();
                assert!(line[0].ends_with(component), "{line:?}");
                assert!(line.len() > 1, "{line:?}");
            }
            let error = command_line("kubelets", &layout).unwrap_err().to_string();
            assert!(error.contains("kubelets") && error.contains("etcd, kube-apiserver"), "{error}");
        }
    }

    #[test]
    fn an_api_server_alone_listens_on_loopback_only() {
        let (layout, _socket) = Layout::choose(Mode::Api, Path::new("/state"), "/programs".into()).unwrap();
        assert!(
            command_line("kube-apiserver", &layout).unwrap().contains(&"--bind-address=127.0.0.1".to_owned())
        );
        for flag in command_line("etcd", &layout).unwrap().iter().filter(|flag| flag.contains("listen")) {
            assert!(flag.contains("//127.0.0.1:"), "{flag}");
        }
    }
}
