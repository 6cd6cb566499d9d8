//! `krt runtime describe`.

use clap::Args;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, Pod};
use kruntimes_api::{RuntimeInstance, names};
use kube::ResourceExt;
use kube::api::ListParams;

use crate::commands::describe::events_of;
use crate::error::Error;
use crate::render::runtime_describe;
use crate::session::Session;
use crate::term::Terminal;
use crate::{exit, values};

/// Show everything about a Runtime: its Pods, what they offer, and why some take no Runs.
#[derive(Debug, Args)]
pub(crate) struct DescribeArgs {
    /// Runtime.
    #[arg(value_name = "RUNTIME", value_parser = values::runtime_name)]
    name: String,
}

pub(crate) async fn run(args: DescribeArgs, session: &Session, terminal: &Terminal) -> Result<u8, Error> {
    let runtime = session.runtime(&args.name).await?;
    let labels = ListParams::default().labels(&format!("{}={}", names::RUNTIME_LABEL, args.name));
    let (pods, _) = session.list("list Pods", &session.api::<Pod>(), labels).await?;
    // An older control plane has no RuntimeInstances, and not everybody may read them.
    let instances =
        session.list("list RuntimeInstances", &session.api::<RuntimeInstance>(), ListParams::default()).await;
    let mut instances = instances.map(|(instances, _)| instances).unwrap_or_default();
    instances.retain(|instance| instance.spec.runtime == args.name);
    let mut events: Vec<Event> = events_of(session, &runtime.uid().unwrap_or_default()).await;
    for pod in &pods {
        events.extend(events_of(session, &pod.uid().unwrap_or_default()).await);
    }
    let text =
        runtime_describe::describe(&runtime, &pods, &instances, &events, Timestamp::now(), terminal.out);
    terminal.data(&text)?;
    Ok(exit::OK)
}
