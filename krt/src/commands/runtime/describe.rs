//! `krt runtime describe`.

use std::collections::{BTreeMap, BTreeSet};

use clap::Args;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, Pod};
use kruntimes_api::{Run, RuntimeInstance, names};
use kube::ResourceExt;
use kube::api::ListParams;

use crate::commands::describe::events_of;
use crate::error::Error;
use crate::render::runtime_describe::{self, Pool};
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
    let runs = holders(session, &args.name, &instances).await;
    let mut events: Vec<Event> = events_of(session, &runtime.uid().unwrap_or_default()).await;
    for pod in &pods {
        events.extend(events_of(session, &pod.uid().unwrap_or_default()).await);
    }
    let pool = Pool { pods: &pods, instances: &instances, runs: &runs, events: &events };
    let text = runtime_describe::describe(&runtime, &pool, Timestamp::now(), terminal.out);
    terminal.data(&text)?;
    Ok(exit::OK)
}

/// Names of the Runs that hold devices, by uid. None where the reader may not list Runs: then the uids are shown.
async fn holders(
    session: &Session,
    runtime: &str,
    instances: &[RuntimeInstance],
) -> BTreeMap<String, String> {
    let devices =
        instances.iter().flat_map(|instance| instance.status.iter().flat_map(|status| &status.devices));
    let uids: BTreeSet<&str> =
        devices.flat_map(|device| &device.allocations).map(|held| held.run_uid.as_str()).collect();
    if uids.is_empty() {
        return BTreeMap::new();
    }
    let of = ListParams::default().fields(&format!("spec.runtime={runtime}"));
    let runs = session.list("list Runs", &session.api::<Run>(), of).await;
    let named = |run: &Run| Some((run.uid()?, run.name_any()));
    let runs = runs.map(|(runs, _)| runs).unwrap_or_default();
    runs.iter().filter_map(named).filter(|(uid, _)| uids.contains(uid.as_str())).collect()
}
