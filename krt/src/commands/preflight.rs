//! `krt preflight`: what this cluster would give to Runs, found by a Pod that looks.

use std::time::Duration;

use clap::Args;
use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kruntimes_api::{Runtime, names};
use kruntimes_core::isolation::{Unmet, unmet};
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, LogParams, PostParams};
use serde_json::json;

use crate::attach::driver::Interrupts;
use crate::cli::{Connection, Format};
use crate::commands::describe::events_of;
use crate::error::Error;
use crate::preflight::{self, Found, Profile, Progress};
use crate::render::{object, preflight as render};
use crate::session::{Session, Sight};
use crate::term::Terminal;
use crate::{exit, values};

/// How long the Pod may be there after krt has given up, should krt not remove it.
const LINGER: Duration = Duration::from_secs(60);
/// How long its removal may take when the person wants to go.
const GOODBYE: Duration = Duration::from_secs(10);

/// Find out what a cluster would give to Runs, before or beside a pool.
///
/// Starts a Pod of the given kind, or as a Runtime's Pods are, in which a Runtime Server looks what it could keep
/// Runs apart with; shows that per axis, and the settings that would give more. The Pod is removed again.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit codes: 0 it was found out; 1 the Runtime requires more than its Pods would give; 124 the Pod\n\
    did not start in time; 125 it could not be made, or not read; 130 ctrl-c.\n\n\
    Examples:\n  \
    krt preflight --image registry.example.com/kruntimes/bash-server:1\n  \
    krt preflight --profile privileged -n sandbox -o json\n  \
    krt preflight --runtime bash"
)]
pub(crate) struct PreflightArgs {
    /// Kind of Pod.
    #[arg(long, value_name = "KIND", value_enum, default_value_t, conflicts_with = "runtime")]
    profile: Profile,
    /// A Pod as those of this Runtime instead, in the same place and with the same rights.
    #[arg(long, short, value_name = "RUNTIME", value_parser = values::runtime_name)]
    runtime: Option<String>,
    /// Image of a Runtime Server that is built with server-kit; default: the bash server's as the charts name it, or the Runtime's.
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,
    /// RuntimeClass of the Pod, for instance one whose handler makes control groups writable.
    #[arg(long, value_name = "NAME", value_parser = values::object_name, conflicts_with = "runtime")]
    runtime_class: Option<String>,
    /// Give up when the Pod has not told within this time.
    #[arg(long, value_name = "DURATION", value_parser = values::limit, default_value = "2m")]
    timeout: Duration,
    /// Form of the output.
    #[arg(long, short, value_name = "FORMAT", value_enum, default_value_t)]
    output: Format,
}

/// What is to be probed.
struct Plan {
    pod: Pod,
    image: String,
    /// `None`: as a Runtime's Pods are.
    profile: Option<Profile>,
    /// What the Runtime requires.
    runtime: Option<Runtime>,
}

pub(crate) async fn run(
    args: PreflightArgs,
    connection: &Connection,
    terminal: &Terminal,
) -> Result<u8, Error> {
    let session = Session::open(connection).await?;
    // From here on ctrl-c waits until nothing is left behind.
    let mut interrupts = Interrupts::listen()?;
    let plan = plan(&args, &session).await?;
    if session.is_local() && plan.profile.is_some_and(|profile| profile != Profile::Restricted) {
        terminal.warn(
            "the local platform starts every container with your own rights: --profile changes nothing",
        );
    }
    let name = plan.pod.name_any();
    let found = match make(&session, &plan, &mut interrupts).await? {
        Some(made) => tokio::select! {
            found = probe(&session, &plan, &made, args.timeout, terminal) => Some(found),
            () = interrupts.next() => None,
        },
        None => None,
    };
    let removed = tokio::select! {
        removed = tokio::time::timeout(GOODBYE, remove(&session, &name)) => {
            removed.unwrap_or_else(|_| Err(Error::Expired { what: "no answer came".into(), limit: GOODBYE }))
        }
        () = interrupts.next() => Err(Error::failed("interrupted again", "")),
    };
    if let Err(error) = removed {
        let command = format!("kubectl delete pod {name} -n {}", session.namespace);
        terminal.warn(&format!("the Pod {name} may be left ({error}): `{command}` removes it"));
    }
    match found {
        None => Ok(exit::INTERRUPTED),
        Some(found) => show(&args, &plan, &found?, terminal),
    }
}

async fn plan(args: &PreflightArgs, session: &Session) -> Result<Plan, Error> {
    let (mut runtime, profile) = match &args.runtime {
        Some(name) => (session.runtime(name).await?, None),
        None => {
            let class = args.runtime_class.as_deref();
            (args.profile.runtime(preflight::DEFAULT_IMAGE, class), Some(args.profile))
        }
    };
    if let Some(image) = &args.image {
        runtime.spec.template["spec"]["containers"][0]["image"] = json!(image);
    }
    let seconds = i64::try_from((args.timeout + LINGER).as_secs()).unwrap_or(i64::MAX);
    let pod = preflight::pod(&runtime, &pod_name(), seconds)?;
    let container = pod.spec.as_ref().and_then(|spec| spec.containers.first());
    let image = container.and_then(|container| container.image.clone()).unwrap_or_default();
    Ok(Plan { pod, image, profile, runtime: profile.is_none().then_some(runtime) })
}

/// Known before the Pod is made, so that it can be removed whatever is heard of its making.
fn pod_name() -> String {
    let moment = Timestamp::now().as_millisecond();
    format!("krt-preflight-{moment:x}-{:x}", std::process::id())
}

/// Makes the Pod; `None` after ctrl-c, when an answer to the request has come or is no longer waited for: a Pod that
/// is made behind our back would stay.
async fn make(session: &Session, plan: &Plan, interrupts: &mut Interrupts) -> Result<Option<Pod>, Error> {
    let pods: Api<Pod> = session.api();
    let doing = format!("make Pod {}", plan.pod.name_any());
    let params = PostParams::default();
    let mut making = std::pin::pin!(session.call(&doing, pods.create(&params, &plan.pod)));
    tokio::select! {
        made = &mut making => {
            made.map(Some).map_err(|error| preflight::refused(error, &session.namespace, plan.profile))
        }
        () = interrupts.next() => {
            drop(tokio::time::timeout(GOODBYE, making).await);
            Ok(None)
        }
    }
}

/// Waits for the end of the Pod that was made and reads what it printed.
async fn probe(
    session: &Session,
    plan: &Plan,
    made: &Pod,
    limit: Duration,
    terminal: &Terminal,
) -> Result<Found, Error> {
    let pods: Api<Pod> = session.api();
    let name = made.name_any();
    let mut last = String::new();
    let waited = tokio::time::timeout(limit, end(session, &name, &mut last, terminal)).await;
    let Ok(ended) = waited else {
        let warnings = preflight::warnings(&events_of(session, &made.uid().unwrap_or_default()).await);
        let why =
            [last, warnings].into_iter().filter(|words| !words.is_empty()).collect::<Vec<_>>().join("; ");
        return Err(Error::Expired { what: format!("Pod {name} has not told what it found ({why})"), limit });
    };
    let (code, how) = ended?;
    let params = LogParams { container: Some(names::RUNTIME_CONTAINER.to_owned()), ..LogParams::default() };
    let log = session.call(&format!("read the log of Pod {name}"), pods.logs(&name, &params)).await?;
    preflight::read(&log, &plan.image, code, &how)
}

/// Waits until the Pod has ended; `last` is how far it was.
async fn end(
    session: &Session,
    name: &str,
    last: &mut String,
    terminal: &Terminal,
) -> Result<(Option<i32>, String), Error> {
    let doing = format!("watch Pod {name}");
    let mut spinner = terminal.spinner();
    spinner.show(Some(&format!("Pod {name} is starting")));
    let mut seen = false;
    let mut watch = std::pin::pin!(session.watch::<Pod>(&doing, name));
    while let Some(sight) = watch.next().await {
        match sight {
            Sight::Object(pod) => {
                seen = true;
                match preflight::progress(&pod) {
                    Progress::Ended { code, how } => return Ok((code, how)),
                    Progress::Stuck(error) => return Err(error),
                    Progress::Waiting(words) => {
                        spinner.show(Some(&format!("Pod {name}: {words}")));
                        *last = words;
                    }
                }
            }
            // The watch may begin before the Pod is in the server's cache.
            Sight::Absent if !seen => {}
            Sight::Absent => {
                return Err(Error::failed(format!("Pod {name} was deleted by somebody else"), ""));
            }
            Sight::Trouble(text) => spinner.aside(|| terminal.warn(&format!("{text}; trying again"))),
            Sight::Refused(error) => return Err(error),
        }
    }
    Err(Error::Protocol { doing, why: "the watch ended".into() })
}

async fn remove(session: &Session, name: &str) -> Result<(), Error> {
    let pods: Api<Pod> = session.api();
    let params = DeleteParams::default().grace_period(0);
    match session.call(&format!("delete Pod {name}"), pods.delete(name, &params)).await {
        Err(error) if error.api_code() == Some(404) => Ok(()),
        other => other.map(drop),
    }
}

fn show(args: &PreflightArgs, plan: &Plan, found: &Found, terminal: &Terminal) -> Result<u8, Error> {
    let runtime = plan.runtime.as_ref();
    let required = runtime.and_then(|runtime| runtime.spec.isolation.as_ref()?.require.clone());
    let axes: Vec<_> = found.isolation.iter().map(|axis| axis.held.clone()).collect();
    let unmet = unmet(&required.unwrap_or_default(), &axes);
    let subject = match plan.profile {
        Some(profile) => json!({"profile": profile.name(), "image": plan.image}),
        None => json!({"runtime": args.runtime, "image": plan.image}),
    };
    let missing =
        |unmet: &Unmet<'_>| json!({"axis": unmet.axis, "required": unmet.required, "found": unmet.level()});
    let value = json!({
        "pod": subject,
        "found": found,
        "unmet": unmet.iter().map(missing).collect::<Vec<_>>(),
    });
    let text = match object::structured(&value, args.output)? {
        Some(text) => text,
        None => render::found(found, terminal.out),
    };
    terminal.data(&text)?;
    for unmet in &unmet {
        terminal.warn(&format!(
            "isolation.require.{} of the Runtime is {:?}, and its Pods would give {:?}: they would take no Runs",
            unmet.axis,
            unmet.required,
            unmet.level()
        ));
    }
    Ok(if unmet.is_empty() { exit::OK } else { exit::RUN_FAILED })
}
