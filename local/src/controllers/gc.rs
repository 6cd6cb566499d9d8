//! Removes what belongs to nobody any more, and Events after an hour.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::api::errors::ApiError;
use crate::api::{Api, DeleteOptions};
use crate::object::text;
use crate::store::Key;

/// How long Events are kept, as by an API server.
const EVENT_AGE: jiff::SignedDuration = jiff::SignedDuration::from_secs(3600);

/// How often old Events are looked for.
const EVENT_SWEEP: Duration = Duration::from_secs(60);

/// Shortest time between two looks, so that a flood of removals costs few of them.
const PAUSE: Duration = Duration::from_millis(20);

/// Runs until `stop`.
pub async fn run(api: Arc<Api>, stop: CancellationToken) {
    let mut structure = api.store.structure();
    let mut sweep = tokio::time::interval(EVENT_SWEEP);
    loop {
        structure.borrow_and_update();
        collect(&api).await;
        tokio::select! {
            () = stop.cancelled() => return,
            _ = sweep.tick() => expire_events(&api).await,
            changed = structure.changed() => {
                if changed.is_err() {
                    return;
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Deletes the objects all of whose owners are gone; of others, drops the owners that are.
async fn collect(api: &Api) {
    for uid in api.store.owners().into_iter().filter(|uid| !api.store.has_uid(uid)) {
        for (kind, key) in api.store.dependents(&uid) {
            let Some(entry) = api.store.get(&kind, &key) else { continue };
            let owned = entry.owners.iter().any(|owner| api.store.has_uid(owner));
            let options = DeleteOptions { uid: Some(entry.uid.clone()), ..DeleteOptions::default() };
            let done = match (owned, entry.deleting) {
                (true, _) => api.drop_owner(&kind, &key, &uid).await,
                (false, true) => Ok(()),
                (false, false) => api.delete(&kind, &key, &options).await.map(drop),
            };
            report(done, &key);
        }
    }
}

fn report(done: Result<(), ApiError>, key: &Key) {
    match done {
        Ok(()) | Err(ApiError::NotFound { .. } | ApiError::Conflict { .. }) => {}
        Err(why) => {
            tracing::warn!(%why, namespace = key.namespace, name = key.name, "cannot collect an object")
        }
    }
}

async fn expire_events(api: &Api) {
    let kind = api.kinds.core("events");
    let now = Timestamp::now();
    for event in api.objects("events", "") {
        let last = ["/lastTimestamp", "/eventTime", "/metadata/creationTimestamp"]
            .iter()
            .find_map(|pointer| text(&event, pointer).parse::<Timestamp>().ok());
        if last.is_some_and(|at| now.duration_since(at) > EVENT_AGE) {
            let key = Key::of(&event);
            report(api.delete(kind, &key, &DeleteOptions::default()).await.map(drop), &key);
        }
    }
}
