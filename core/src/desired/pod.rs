//! The Pod: the author's template, the sidecar, and what the two share.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{
    Capabilities, ConfigMapProjection, Container, ContainerPort, DownwardAPIProjection,
    DownwardAPIVolumeFile, EmptyDirVolumeSource, EnvVar, EnvVarSource, HTTPGetAction, KeyToPath,
    ObjectFieldSelector, PodReadinessGate, PodSecurityContext, PodSpec, PodTemplateSpec, Probe,
    ProjectedVolumeSource, ResourceRequirements, SeccompProfile, SecretProjection, SecurityContext,
    ServiceAccountTokenProjection, TCPSocketAction, Volume, VolumeMount, VolumeProjection,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kruntimes_api::Runtime;
use kruntimes_api::names::{
    DEFAULT_PORT, RESOURCES_ENV, RUNTIME_CONTAINER, RUNTIMED_CONTAINER, RUNTIMED_HEALTH_PORT,
    RUNTIMED_METRICS_PORT, RUNTIMED_READY, SOCKET_PATH, SOCKET_VOLUME, WORKSPACE_PATH, WORKSPACE_VOLUME,
};
use kruntimes_api::runtime::{GitSpec, Network};

use super::health::{liveness, readiness};
use super::{Defaults, TemplateError, object_name, resources, selector, traces};

/// Group that owns the shared volumes.
const GROUP_ID: i64 = 65532;
/// Variable that tells both containers where socket and token are.
const SOCKET_DIR_ENV: &str = "KRUNTIME_SOCKET_DIR";
const WORK_DIR_ENV: &str = "KRUNTIME_WORK_DIR";
/// Variable that tells the server what Runs may write to beside their own folders.
const SHARED_PATHS_ENV: &str = "KRUNTIME_SHARED_PATHS";
/// Variable that tells the server whether Runs see the Pod's network.
const RUN_NETWORK_ENV: &str = "KRUNTIME_RUN_NETWORK";
/// Variable that tells the sidecar how long it has after TERM.
const GRACE_ENV: &str = "KRUNTIME_TERMINATION_GRACE_SECONDS";
/// Grace of a template that names none, as Kubernetes has it.
const DEFAULT_GRACE: i64 = 30;
const TOKEN_VOLUME: &str = "runtimed-token";
const TOKEN_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// Seconds that the sidecar's token is good for; the kubelet renews it before.
const TOKEN_SECONDS: i64 = 3607;
const GIT_VOLUME: &str = "runtimed-git";
const GIT_PATH: &str = "/etc/kruntimes/git";
/// Reserved for later by the baseline.
const ARTIFACT_VOLUME: &str = "artifact-store";

pub(super) fn template(
    runtime: &Runtime,
    name: &str,
    defaults: &Defaults,
) -> Result<PodTemplateSpec, TemplateError> {
    let spec = &runtime.spec;
    refuse_unavailable(runtime)?;
    let port = port(spec.port)?;
    let mut template =
        spec.pod_template().map_err(|error| TemplateError::Undecodable { why: error.to_string() })?;
    let mut pod = template.spec.take().unwrap_or_default();
    validate(&pod)?;
    let mut metadata = template.metadata.take().unwrap_or_default();
    metadata.labels.get_or_insert_default().extend(selector(name));
    let offers = resources::offers(runtime)?;
    metadata.annotations.get_or_insert_default().extend(resources::annotations(&offers));
    metadata
        .annotations
        .get_or_insert_default()
        .entry("kubectl.kubernetes.io/default-container".into())
        .or_insert(RUNTIME_CONTAINER.into());

    let mut sidecar = sidecar(runtime, name, port, &pod, defaults);
    pod.containers.retain(|container| container.name != RUNTIMED_CONTAINER);
    if let Some(server) = pod.containers.first_mut() {
        complete_server(server, port);
        set_env(server, RESOURCES_ENV, &resources::for_the_server(runtime, &offers));
        // Without a word of the Runtime's, the template's own holds.
        if let Some(network) = spec.isolation.as_ref().and_then(|isolation| isolation.network) {
            set_env(server, RUN_NETWORK_ENV, run_network(network));
        }
        traces::tell_collector(server, &mut sidecar, defaults.otlp_endpoint.as_deref());
    }
    pod.containers.push(sidecar);
    complete_pod(&mut pod, runtime, name, defaults)?;
    Ok(PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: metadata.labels,
            annotations: metadata.annotations,
            finalizers: metadata.finalizers,
            ..ObjectMeta::default()
        }),
        spec: Some(pod),
    })
}

fn refuse_unavailable(runtime: &Runtime) -> Result<(), TemplateError> {
    let spec = &runtime.spec;
    let not = |field| Err(TemplateError::NotAvailable { field });
    if spec.artifact_store.is_some() {
        return not("spec.artifactStore");
    }
    if !spec.preload.is_empty() {
        return not("spec.preload");
    }
    Ok(())
}

fn run_network(network: Network) -> &'static str {
    match network {
        Network::Shared => "shared",
        Network::None => "none",
    }
}

fn port(given: Option<i32>) -> Result<i32, TemplateError> {
    let port = given.unwrap_or(i32::from(DEFAULT_PORT));
    if !(1..=65535).contains(&port) {
        return Err(TemplateError::Port { port, why: "is not between 1 and 65535" });
    }
    if [RUNTIMED_HEALTH_PORT, RUNTIMED_METRICS_PORT].map(i32::from).contains(&port) {
        return Err(TemplateError::Port { port, why: "is a port of the sidecar in the same Pod" });
    }
    Ok(port)
}

fn validate(pod: &PodSpec) -> Result<(), TemplateError> {
    let server = pod.containers.first();
    match server {
        Some(server)
            if server.name == RUNTIME_CONTAINER && server.image.as_deref().is_some_and(|i| !i.is_empty()) => {
        }
        Some(server) => {
            let found = format!(
                " (it is named {:?}, image {:?})",
                server.name,
                server.image.as_deref().unwrap_or("")
            );
            return Err(TemplateError::NoRuntimeContainer { found });
        }
        None => return Err(TemplateError::NoRuntimeContainer { found: " (there is none)".into() }),
    }
    if let Some(given) = pod.restart_policy.as_deref().filter(|policy| *policy != "Always") {
        return Err(TemplateError::RestartPolicy { given: given.to_owned() });
    }
    if pod.ephemeral_containers.as_ref().is_some_and(|list| !list.is_empty()) {
        return Err(TemplateError::EphemeralContainers);
    }
    let mut seen = BTreeSet::new();
    let sidecars = pod.containers.iter().filter(|container| container.name != RUNTIMED_CONTAINER);
    for container in sidecars.chain(pod.init_containers.iter().flatten()) {
        if !seen.insert(container.name.as_str()) || container.name == RUNTIMED_CONTAINER {
            return Err(TemplateError::DuplicateContainer { name: container.name.clone() });
        }
    }
    let mut seen = BTreeSet::new();
    for volume in pod.volumes.iter().flatten() {
        if !seen.insert(volume.name.as_str()) {
            return Err(TemplateError::DuplicateVolume { name: volume.name.clone() });
        }
    }
    refuse_token(pod)
}

fn refuse_token(pod: &PodSpec) -> Result<(), TemplateError> {
    let token = |field: String| Err(TemplateError::Token { field });
    if pod.automount_service_account_token == Some(true) {
        return token("spec.template.spec.automountServiceAccountToken".into());
    }
    let carries_token = |volume: &&Volume| {
        let sources = volume.projected.as_ref().and_then(|projected| projected.sources.as_ref());
        sources.into_iter().flatten().any(|source| source.service_account_token.is_some())
    };
    let tokens: BTreeSet<&str> =
        pod.volumes.iter().flatten().filter(carries_token).map(|volume| volume.name.as_str()).collect();
    let Some(server) = pod.containers.first() else { return Ok(()) };
    for mount in server.volume_mounts.iter().flatten() {
        if tokens.contains(mount.name.as_str()) || mount.name == TOKEN_VOLUME {
            return token(format!("volume {:?}, mounted at {:?},", mount.name, mount.mount_path));
        }
        if mount.mount_path.trim_end_matches('/') == TOKEN_PATH {
            return token(format!("the mount at {TOKEN_PATH:?}"));
        }
    }
    Ok(())
}

fn complete_server(server: &mut Container, port: i32) {
    let ports = server.ports.get_or_insert_default();
    ports.retain(|other| other.name.as_deref() != Some("grpc") && other.container_port != port);
    ports.push(container_port("grpc", port));
    set_env(server, SOCKET_DIR_ENV, SOCKET_PATH);
    set_env(server, WORK_DIR_ENV, WORKSPACE_PATH);
    share_author_volumes(server);
    share_volumes(server);
    let tcp = TCPSocketAction { port: IntOrString::Int(port), host: None };
    let asked = Probe { tcp_socket: Some(tcp), ..Probe::default() };
    server.liveness_probe.get_or_insert_with(|| liveness(asked.clone()));
    server.readiness_probe.get_or_insert_with(|| readiness(asked));
    let is_unset = |resources: &ResourceRequirements| {
        resources.requests.is_none() && resources.limits.is_none() && resources.claims.is_none()
    };
    if server.resources.as_ref().is_none_or(is_unset) {
        server.resources = Some(requirements(["250m", "256Mi"], ["2", "2Gi"]));
    }
    server.security_context.get_or_insert_with(restricted);
}

/// What the author mounts to be written to stays so for Runs, which may otherwise write nowhere but to their
/// own folders. A value of the author's wins.
fn share_author_volumes(server: &mut Container) {
    let own = |mount: &&VolumeMount| {
        let path = mount.mount_path.trim_end_matches('/');
        ![WORKSPACE_VOLUME, SOCKET_VOLUME].contains(&mount.name.as_str())
            && ![WORKSPACE_PATH, SOCKET_PATH].contains(&path)
    };
    let mounts = server.volume_mounts.iter().flatten().filter(own);
    let writable = mounts.filter(|mount| mount.read_only != Some(true));
    let paths: Vec<&str> = writable.map(|mount| mount.mount_path.as_str()).collect();
    let set = server.env.iter().flatten().any(|variable| variable.name == SHARED_PATHS_ENV);
    if !paths.is_empty() && !set {
        let paths = paths.join(",");
        set_env(server, SHARED_PATHS_ENV, &paths);
    }
}

/// Both containers see the workspaces and the socket at the same paths.
fn share_volumes(container: &mut Container) {
    let mounts = container.volume_mounts.get_or_insert_default();
    for (name, path) in [(WORKSPACE_VOLUME, WORKSPACE_PATH), (SOCKET_VOLUME, SOCKET_PATH)] {
        mounts.retain(|mount| mount.name != name && mount.mount_path.trim_end_matches('/') != path);
        mounts.push(mount(name, path, None));
    }
}

fn sidecar(runtime: &Runtime, name: &str, port: i32, pod: &PodSpec, defaults: &Defaults) -> Container {
    let spec = &runtime.spec;
    let mut args = vec![
        format!("--runtime-name={name}"),
        format!("--work-dir={WORKSPACE_PATH}"),
        format!("--runtime-endpoint=localhost:{port}"),
    ];
    // Both are plain structs of strings and numbers: they always serialize.
    if let Some(text) = spec.run_defaults.as_ref().and_then(|defaults| serde_json::to_string(defaults).ok()) {
        args.push(format!("--run-defaults={text}"));
    }
    // Also where nothing is required: that the Runtime speaks of isolation is what makes memory requests limits.
    let required = spec.isolation.as_ref().map(|isolation| isolation.require.clone().unwrap_or_default());
    if let Some(text) = required.and_then(|required| serde_json::to_string(&required).ok()) {
        args.push(format!("--require-isolation={text}"));
    }
    if let Some(git) = &spec.git {
        args.extend(git_files(git).into_iter().map(|file| format!("{}={GIT_PATH}/{}", file.flag, file.path)));
    }
    let field = |name: &str, path: &str| EnvVar {
        name: name.into(),
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector { field_path: path.into(), api_version: Some("v1".into()) }),
            ..EnvVarSource::default()
        }),
        ..EnvVar::default()
    };
    let grace = pod.termination_grace_period_seconds.unwrap_or(DEFAULT_GRACE);
    let http = |path: &str| Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.into()),
            port: IntOrString::Int(RUNTIMED_HEALTH_PORT.into()),
            ..HTTPGetAction::default()
        }),
        ..Probe::default()
    };
    let mut sidecar = Container {
        name: RUNTIMED_CONTAINER.into(),
        image: Some(spec.daemon_image.clone().unwrap_or_else(|| defaults.daemon_image.clone())),
        args: Some(args),
        env: Some(vec![
            field("POD_NAME", "metadata.name"),
            field("POD_NAMESPACE", "metadata.namespace"),
            field("POD_UID", "metadata.uid"),
            env(SOCKET_DIR_ENV, SOCKET_PATH),
            env(GRACE_ENV, &grace.to_string()),
        ]),
        ports: Some(vec![
            container_port("health", RUNTIMED_HEALTH_PORT.into()),
            container_port("metrics", RUNTIMED_METRICS_PORT.into()),
        ]),
        liveness_probe: Some(liveness(http("/healthz"))),
        readiness_probe: Some(readiness(http("/readyz"))),
        resources: Some(requirements(["100m", "128Mi"], ["500m", "256Mi"])),
        security_context: Some(restricted()),
        volume_mounts: Some(vec![mount(TOKEN_VOLUME, TOKEN_PATH, Some(true))]),
        ..Container::default()
    };
    share_volumes(&mut sidecar);
    if spec.git.is_some() {
        sidecar.volume_mounts.get_or_insert_default().push(mount(GIT_VOLUME, GIT_PATH, Some(true)));
    }
    sidecar
}

fn complete_pod(
    pod: &mut PodSpec,
    runtime: &Runtime,
    name: &str,
    defaults: &Defaults,
) -> Result<(), TemplateError> {
    let volumes = pod.volumes.get_or_insert_default();
    let ours = [WORKSPACE_VOLUME, SOCKET_VOLUME, TOKEN_VOLUME, GIT_VOLUME, ARTIFACT_VOLUME];
    volumes.retain(|volume| !ours.contains(&volume.name.as_str()));
    volumes.push(workspace(runtime)?);
    volumes.push(Volume {
        name: SOCKET_VOLUME.into(),
        empty_dir: Some(EmptyDirVolumeSource::default()),
        ..Volume::default()
    });
    volumes.push(projected(TOKEN_VOLUME, token_sources()));
    if let Some(git) = &runtime.spec.git {
        volumes.push(projected(GIT_VOLUME, git_files(git).into_iter().map(|file| file.source).collect()));
    }
    let security = pod.security_context.get_or_insert_with(PodSecurityContext::default);
    security.fs_group.get_or_insert(GROUP_ID);
    security.fs_group_change_policy.get_or_insert_with(|| "OnRootMismatch".into());
    let gates = pod.readiness_gates.get_or_insert_default();
    if !gates.iter().any(|gate| gate.condition_type == RUNTIMED_READY) {
        gates.push(PodReadinessGate { condition_type: RUNTIMED_READY.into() });
    }
    // Only the sidecar gets a token, by its own volume.
    pod.automount_service_account_token = Some(false);
    pod.enable_service_links.get_or_insert(false);
    let account = pod.service_account_name.take().filter(|account| !account.is_empty());
    let account = account.or_else(|| defaults.service_account.clone());
    pod.service_account_name = Some(account.unwrap_or_else(|| object_name(name)));
    pod.service_account = None;
    Ok(())
}

fn workspace(runtime: &Runtime) -> Result<Volume, TemplateError> {
    let empty = || Volume {
        name: WORKSPACE_VOLUME.into(),
        empty_dir: Some(EmptyDirVolumeSource::default()),
        ..Volume::default()
    };
    let Some(source) = &runtime.spec.workspace else { return Ok(empty()) };
    let not = |why: String| TemplateError::Workspace { why };
    let mut source = source.as_object().cloned().ok_or_else(|| not("it is not an object".into()))?;
    match source.len() {
        0 => return Ok(empty()),
        1 => {}
        n => {
            return Err(not(format!(
                "it names {n}: {}",
                source.keys().cloned().collect::<Vec<_>>().join(", ")
            )));
        }
    }
    source.insert("name".into(), WORKSPACE_VOLUME.into());
    let volume: Volume = serde_json::from_value(source.into()).map_err(|error| not(error.to_string()))?;
    if volume == (Volume { name: WORKSPACE_VOLUME.into(), ..Volume::default() }) {
        return Err(not("it is of no known kind".into()));
    }
    Ok(volume)
}

/// What `automountServiceAccountToken` would mount into every container.
fn token_sources() -> Vec<VolumeProjection> {
    vec![
        VolumeProjection {
            service_account_token: Some(ServiceAccountTokenProjection {
                path: "token".into(),
                expiration_seconds: Some(TOKEN_SECONDS),
                audience: None,
            }),
            ..VolumeProjection::default()
        },
        VolumeProjection {
            config_map: Some(ConfigMapProjection {
                name: "kube-root-ca.crt".into(),
                items: Some(vec![key("ca.crt", "ca.crt")]),
                optional: None,
            }),
            ..VolumeProjection::default()
        },
        VolumeProjection {
            downward_api: Some(DownwardAPIProjection {
                items: Some(vec![DownwardAPIVolumeFile {
                    path: "namespace".into(),
                    field_ref: Some(ObjectFieldSelector {
                        field_path: "metadata.namespace".into(),
                        api_version: Some("v1".into()),
                    }),
                    ..DownwardAPIVolumeFile::default()
                }]),
            }),
            ..VolumeProjection::default()
        },
    ]
}

/// One file for Git sources: the sidecar's flag, its name, where it comes from.
struct GitFile {
    flag: &'static str,
    path: &'static str,
    source: VolumeProjection,
}

fn git_files(git: &GitSpec) -> Vec<GitFile> {
    let mut files = Vec::new();
    // A secret may hold either key; the sidecar takes a missing file as "not given".
    let secret = |name: &str, item: &str| VolumeProjection {
        secret: Some(SecretProjection {
            name: name.into(),
            items: Some(vec![key(item, item)]),
            optional: Some(true),
        }),
        ..VolumeProjection::default()
    };
    let config = |name: &str, item: &str| VolumeProjection {
        config_map: Some(ConfigMapProjection {
            name: name.into(),
            items: Some(vec![key(item, item)]),
            optional: None,
        }),
        ..VolumeProjection::default()
    };
    if let Some(name) = &git.credentials_secret_name {
        for (flag, path) in
            [("--git-credentials-file", "credentials"), ("--git-ssh-key-file", "ssh-privatekey")]
        {
            files.push(GitFile { flag, path, source: secret(name, path) });
        }
    }
    if let Some(name) = &git.ca_config_map_name {
        files.push(GitFile { flag: "--git-ca-file", path: "ca.crt", source: config(name, "ca.crt") });
    }
    if let Some(name) = &git.known_hosts_config_map_name {
        let source = config(name, "known_hosts");
        files.push(GitFile { flag: "--git-known-hosts-file", path: "known_hosts", source });
    }
    files
}

fn projected(name: &str, sources: Vec<VolumeProjection>) -> Volume {
    Volume {
        name: name.into(),
        // The group of the Pod may read, nobody else.
        projected: Some(ProjectedVolumeSource { sources: Some(sources), default_mode: Some(0o440) }),
        ..Volume::default()
    }
}

fn key(key: &str, path: &str) -> KeyToPath {
    KeyToPath { key: key.into(), path: path.into(), mode: None }
}

pub(super) fn env(name: &str, value: &str) -> EnvVar {
    EnvVar { name: name.into(), value: Some(value.into()), ..EnvVar::default() }
}

fn set_env(container: &mut Container, name: &str, value: &str) {
    let variables = container.env.get_or_insert_default();
    variables.retain(|variable| variable.name != name);
    variables.push(env(name, value));
}

fn mount(name: &str, path: &str, read_only: Option<bool>) -> VolumeMount {
    VolumeMount { name: name.into(), mount_path: path.into(), read_only, ..VolumeMount::default() }
}

fn container_port(name: &str, port: i32) -> ContainerPort {
    ContainerPort {
        name: Some(name.into()),
        container_port: port,
        protocol: Some("TCP".into()),
        ..ContainerPort::default()
    }
}

/// What the Pod Security level `restricted` asks of a container, and a read-only root.
fn restricted() -> SecurityContext {
    SecurityContext {
        read_only_root_filesystem: Some(true),
        run_as_non_root: Some(true),
        allow_privilege_escalation: Some(false),
        capabilities: Some(Capabilities { drop: Some(vec!["ALL".into()]), add: None }),
        seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".into(), localhost_profile: None }),
        ..SecurityContext::default()
    }
}

fn requirements(requests: [&str; 2], limits: [&str; 2]) -> ResourceRequirements {
    let list = |[cpu, memory]: [&str; 2]| {
        Some(
            [("cpu".to_owned(), Quantity(cpu.into())), ("memory".to_owned(), Quantity(memory.into()))].into(),
        )
    };
    ResourceRequirements { requests: list(requests), limits: list(limits), claims: None }
}
