//! Asks the API. Nothing is judged here.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicyBinding;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kruntimes_api::names::RUNTIME_LABEL;
use kruntimes_api::{Run, Runtime, crds};
use kube::api::{Api, ListParams, PostParams};
use kube::{Resource, ResourceExt};

use super::{Answer, Facts, Part, Release, Right};
use crate::error::Error;
use crate::session::Session;

/// Runs that have not ended.
const NOT_ENDED: &str =
    "status.phase!=Succeeded,status.phase!=Failed,status.phase!=Timeout,status.phase!=Cancelled";
/// What the commands do, each with the group of its resource.
const NEEDED: [(&str, &str, &str); 9] = [
    ("create", "kruntimes.io", "runs"),
    ("get", "kruntimes.io", "runs"),
    ("list", "kruntimes.io", "runs"),
    ("watch", "kruntimes.io", "runs"),
    ("patch", "kruntimes.io", "runs"),
    ("delete", "kruntimes.io", "runs"),
    ("list", "kruntimes.io", "runtimes"),
    ("list", "", "pods"),
    ("get", "", "pods/log"),
];

/// Everything, as far as this person may see it.
///
/// # Errors
/// When the API does not answer at all.
pub(crate) async fn facts(session: &Session, everywhere: bool) -> Result<Facts, Error> {
    let user = session.whoami("ask who you are").await?;
    let server = session.call("ask for the version", session.client.apiserver_version()).await;
    let kinds = kinds(session).await;
    let pods = ListParams::default().labels(RUNTIME_LABEL);
    Ok(Facts {
        ours: env!("CARGO_PKG_VERSION"),
        namespace: (!everywhere).then(|| session.namespace.clone()),
        local: session.is_local(),
        address: session.address().to_owned(),
        user,
        server: server.map(|info| info.git_version).map_err(|error| error.to_string()),
        skew: skew(session).await,
        kinds,
        policies: policies(session).await,
        rights: rights(session, everywhere).await,
        parts: parts(session).await,
        runtimes: objects::<Runtime>(session, everywhere, ListParams::default()).await,
        pods: objects(session, everywhere, pods).await,
        runs: objects::<Run>(session, everywhere, ListParams::default().fields(NOT_ENDED)).await,
    })
}

async fn objects<K>(session: &Session, everywhere: bool, params: ListParams) -> Answer<Vec<K>>
where
    K: Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>
        + Clone
        + serde::de::DeserializeOwned
        + std::fmt::Debug,
{
    let doing = format!("list {}", K::plural(&()));
    let listed = session.list(&doing, &session.api_in::<K>(everywhere), params).await;
    listed.map(|(objects, _)| objects).map_err(|error| error.to_string())
}

async fn kinds(session: &Session) -> Answer<Vec<CustomResourceDefinition>> {
    let api: Api<CustomResourceDefinition> = Api::all(session.client.clone());
    let mut found = Vec::new();
    for ours in crds::all().map_err(|error| error.to_string())? {
        let name = ours.name_any();
        let kind = session.call(&format!("get the kind {name}"), api.get_opt(&name)).await;
        found.extend(kind.map_err(|error| error.to_string())?);
    }
    Ok(found)
}

/// Policies with a binding that denies.
async fn policies(session: &Session) -> Answer<Vec<String>> {
    if session.is_local() {
        return Ok(Vec::new());
    }
    let bindings: Api<ValidatingAdmissionPolicyBinding> = Api::all(session.client.clone());
    let doing = "list the bindings of admission policies";
    let listed = session.list(doing, &bindings, ListParams::default()).await;
    let (bindings, _) = listed.map_err(|error| error.to_string())?;
    let specs = bindings.into_iter().filter_map(|binding| binding.spec);
    let denying =
        specs.filter(|spec| spec.validation_actions.iter().flatten().any(|action| action == "Deny"));
    Ok(denying.filter_map(|spec| spec.policy_name).collect())
}

async fn rights(session: &Session, everywhere: bool) -> Vec<Right> {
    let api: Api<SelfSubjectAccessReview> = Api::all(session.client.clone());
    let mut rights = Vec::new();
    for (verb, group, resource) in NEEDED {
        let (name, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let attributes = ResourceAttributes {
            namespace: (!everywhere).then(|| session.namespace.clone()),
            verb: Some(verb.to_owned()),
            group: Some(group.to_owned()),
            resource: Some(name.to_owned()),
            subresource: Some(subresource.to_owned()).filter(|sub| !sub.is_empty()),
            ..ResourceAttributes::default()
        };
        let spec =
            SelfSubjectAccessReviewSpec { resource_attributes: Some(attributes), ..Default::default() };
        let review = SelfSubjectAccessReview { spec, ..Default::default() };
        let params = PostParams::default();
        if let Ok(answer) = session.call("ask for your rights", api.create(&params, &review)).await {
            let allowed = answer.status.is_some_and(|status| status.allowed);
            rights.push(Right { verb, resource, allowed });
        }
    }
    rights
}

/// The control plane, found by the labels of its chart.
async fn parts(session: &Session) -> Answer<Vec<Part>> {
    if session.is_local() {
        return Ok(Vec::new());
    }
    let params =
        ListParams::default().labels("app.kubernetes.io/part-of=kruntimes,app.kubernetes.io/component");
    let deployments: Api<Deployment> = Api::all(session.client.clone());
    let (deployments, _) = session
        .list("list the Deployments of the control plane", &deployments, params)
        .await
        .map_err(|error| error.to_string())?;
    let mut parts = Vec::new();
    for deployment in deployments {
        let component = deployment.labels().get("app.kubernetes.io/component").cloned().unwrap_or_default();
        if !matches!(&*component, "scheduler" | "controller") {
            continue;
        }
        let (namespace, name) = (deployment.namespace().unwrap_or_default(), deployment.name_any());
        let spec = deployment.spec.as_ref();
        let arguments = spec.and_then(|spec| spec.template.spec.as_ref()).into_iter();
        let arguments: Vec<_> =
            arguments.flat_map(|pod| &pod.containers).flat_map(|c| c.args.iter().flatten()).collect();
        let elects = arguments.iter().any(|argument| *argument == "--leader-elect=true");
        let watches = arguments.iter().find_map(|argument| argument.strip_prefix("--namespace="));
        let leases: Api<Lease> = Api::namespaced(session.client.clone(), &namespace);
        let lease = session.call("get the Lease", leases.get_opt(&name)).await;
        parts.push(Part {
            release: Release::of(&deployment),
            watches: watches.map(str::to_owned),
            version: deployment.labels().get("app.kubernetes.io/version").cloned(),
            wanted: spec.and_then(|spec| spec.replicas).unwrap_or(1),
            ready: deployment.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or(0),
            lease: lease.map(held).map_err(|error| error.to_string()),
            component,
            namespace,
            name,
            elects,
        });
    }
    Ok(parts)
}

fn held(lease: Option<Lease>) -> Option<(String, SignedDuration)> {
    let spec = lease?.spec?;
    let holder = spec.holder_identity.filter(|holder| !holder.is_empty())?;
    Some((holder, Timestamp::now().duration_since(spec.renew_time?.0)))
}

/// What the server's clock says in the header of an answer, in whole seconds.
async fn skew(session: &Session) -> Option<SignedDuration> {
    let request = http::Request::get("/version").body(kube::client::Body::empty()).ok()?;
    let before = Timestamp::now();
    let answer = session.client.send(request).await.ok()?;
    let after = Timestamp::now();
    let date = answer.headers().get(http::header::DATE)?.to_str().ok()?;
    let server = jiff::fmt::rfc2822::parse(date).ok()?.timestamp();
    // Whatever lies between the two is no skew; the header's fraction is cut off.
    let ahead = server.duration_since(after);
    let behind = before.duration_since(server) - SignedDuration::from_secs(1);
    Some(if ahead > SignedDuration::ZERO {
        ahead
    } else if behind > SignedDuration::ZERO {
        -behind
    } else {
        SignedDuration::ZERO
    })
}
