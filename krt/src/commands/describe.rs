//! `krt describe`: everything that is known of Runs.

use clap::Args;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Event;
use kube::ResourceExt;
use kube::api::ListParams;

use crate::error::Error;
use crate::render::run_describe;
use crate::session::Session;
use crate::term::Terminal;
use crate::{exit, values};

/// Show everything about Runs: timeline, attempts, usage, isolation, events.
#[derive(Debug, Args)]
pub(crate) struct DescribeArgs {
    /// Runs.
    #[arg(value_name = "RUN", required = true, value_parser = values::run_name)]
    runs: Vec<String>,
}

pub(crate) async fn run(args: DescribeArgs, session: &Session, terminal: &Terminal) -> Result<u8, Error> {
    for (at, name) in args.runs.iter().enumerate() {
        let run = session.run(name).await?;
        let events = events_of(session, &run.uid().unwrap_or_default()).await;
        if at > 0 {
            terminal.data("\n\n")?;
        }
        terminal.data(&run_describe::describe(&run, &events, Timestamp::now(), terminal.out))?;
    }
    Ok(exit::OK)
}

/// Events about an object; those who may not read events still get the rest.
pub(crate) async fn events_of(session: &Session, uid: &str) -> Vec<Event> {
    let params = ListParams::default().fields(&format!("involvedObject.uid={uid}"));
    match session.list("list Events", &session.api::<Event>(), params).await {
        // A server that does not know the selector sends all of them.
        Ok((events, _)) => {
            events.into_iter().filter(|e| e.involved_object.uid.as_deref() == Some(uid)).collect()
        }
        Err(_) => Vec::new(),
    }
}
