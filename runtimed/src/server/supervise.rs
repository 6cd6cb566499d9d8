//! Keeps a connection, tells the engine what comes over it, and the rest what state it is in.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use kruntimes_proto::v1;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::{RuntimeClient, ServerEvent, Session, Target};
use crate::engine::Event;

/// Between two tries to connect: the first, doubled up to the longest.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));
/// Between two Health calls.
const HEALTH_PERIOD: Duration = Duration::from_secs(1);
/// Health calls without an answer after which a connection is given up.
const MAX_SILENT: u32 = 3;

/// The state of the server, for whoever wants to know.
#[derive(Clone, Default)]
pub struct ServerView {
    /// For calls; absent while there is no connection.
    pub client: Option<Arc<dyn RuntimeClient>>,
    /// Why it cannot start work, `None` when it can.
    pub trouble: Option<Trouble>,
    /// What it last said of itself.
    pub describe: Option<Arc<v1::DescribeResponse>>,
}

/// Why the server cannot start work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// There is no connection, and why.
    Unreachable(String),
    /// It says so itself.
    Unhealthy(String),
}

impl std::fmt::Debug for ServerView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerView")
            .field("connected", &self.client.is_some())
            .field("trouble", &self.trouble)
            .finish()
    }
}

/// Runs until `stop`, or until nobody takes events any more.
pub async fn supervise(
    mut target: Target,
    view: watch::Sender<ServerView>,
    events: mpsc::Sender<Event>,
    stop: CancellationToken,
) {
    let mut pause = BACKOFF.0;
    loop {
        let connected = tokio::select! {
            connected = target.connect() => connected,
            () = stop.cancelled() => return,
        };
        match connected {
            Ok(session) => {
                pause = BACKOFF.0;
                tracing::info!(instance = ?session.client.instance(), "connected to the Runtime Server");
                if serve(session, &view, &events, &stop).await.is_none() {
                    return;
                }
                tracing::warn!("lost the Runtime Server");
            }
            Err(error) => {
                let why = error.to_string();
                view.send_if_modified(|view| {
                    let trouble = Some(Trouble::Unreachable(why));
                    let changed = view.trouble != trouble;
                    view.trouble = trouble;
                    changed
                });
            }
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(BACKOFF.1),
            () = stop.cancelled() => return,
        }
    }
}

/// `None` when nobody takes events any more, or `stop` came.
async fn serve(
    mut session: Session,
    view: &watch::Sender<ServerView>,
    events: &mpsc::Sender<Event>,
    stop: &CancellationToken,
) -> Option<()> {
    let instance = session.client.instance().clone();
    let trouble = match session.client.health().await {
        Ok(health) => health.err().map(Trouble::Unhealthy),
        Err(error) => Some(Trouble::Unhealthy(error.to_string())),
    };
    view.send_modify(|view| {
        view.client = Some(Arc::clone(&session.client));
        view.trouble = trouble;
        view.describe = session.describe.take().map(Arc::new);
    });
    let executions = std::mem::take(&mut session.executions);
    events.send(Event::ServerUp { instance: instance.clone(), executions }).await.ok()?;
    let silent = CancellationToken::new();
    let _health = AbortOnDropHandle::new(tokio::spawn(watch_health(
        Arc::clone(&session.client),
        view.clone(),
        silent.clone(),
    )));
    loop {
        let event = tokio::select! {
            event = session.events.next() => event,
            () = silent.cancelled() => None,
            () = stop.cancelled() => return None,
        };
        let event = match event {
            None => break,
            Some(ServerEvent::Snapshot(executions)) => {
                Event::ServerUp { instance: instance.clone(), executions }
            }
            Some(ServerEvent::Execution(execution)) => Event::Execution(execution),
            Some(ServerEvent::Missing(id)) => Event::Missing(id),
            Some(ServerEvent::Inventory(describe)) => {
                view.send_modify(|view| view.describe = Some(Arc::from(describe)));
                continue;
            }
        };
        events.send(event).await.ok()?;
    }
    view.send_modify(|view| {
        view.client = None;
        view.trouble = Some(Trouble::Unreachable("the connection to the Runtime Server was lost".into()));
    });
    events.send(Event::ServerDown).await.ok()
}

async fn watch_health(
    client: Arc<dyn RuntimeClient>,
    view: watch::Sender<ServerView>,
    silent: CancellationToken,
) {
    let mut unanswered = 0;
    loop {
        tokio::time::sleep(HEALTH_PERIOD).await;
        let trouble = match client.health().await {
            Ok(health) => {
                unanswered = 0;
                health.err().map(Trouble::Unhealthy)
            }
            Err(error) => {
                unanswered += 1;
                if unanswered >= MAX_SILENT {
                    return silent.cancel();
                }
                Some(Trouble::Unhealthy(error.to_string()))
            }
        };
        view.send_if_modified(|view| {
            let changed = view.trouble != trouble;
            view.trouble = trouble;
            changed
        });
    }
}
