//! Get, list, watch and logs.

use std::time::Duration;

use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{StatusCode, header};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::form::Form;
use super::target::Target;
use super::{ApiError, Call, bytes_response, json_response, streamed};
use crate::api::selector::Selector;
use crate::api::{scale, table, watch};
use crate::pods::logs::LogQuery;
use crate::store::{Entry, Key};

/// Watches without a `timeoutSeconds` end after half an hour, as the API server's do after a while.
const WATCH_TIMEOUT: Duration = Duration::from_secs(1800);

pub async fn answer(call: &Call<'_>, target: &Target) -> Result<Response, ApiError> {
    let form =
        Form::accepted(call.header(header::ACCEPT), call.query.get("includeObject"), target.new_events);
    match (&target.name, target.sub.as_deref()) {
        (None, _) if call.query.flag("watch") => watch_answer(call, target, form),
        (None, _) => list(call, target, form),
        (Some(_), sub) => one(call, target, form, sub).await,
    }
}

fn selector(call: &Call<'_>, target: &Target) -> Result<Selector, ApiError> {
    let fields = call.query.get("fieldSelector");
    let fields =
        if target.new_events { fields.replace("regarding.", "involvedObject.") } else { fields.to_owned() };
    Selector::parse(&target.kind, call.query.get("labelSelector"), &fields)
}

async fn one(call: &Call<'_>, target: &Target, form: Form, sub: Option<&str>) -> Result<Response, ApiError> {
    let Some(key) = target.key() else { return Err(ApiError::UnknownPath) };
    let entry = call.server.api.get(&target.kind, &key)?;
    match (sub, &target.kind.scale) {
        (Some("scale"), Some(paths)) => {
            return Ok(json_response(StatusCode::OK, &scale::of(paths, &entry.value())));
        }
        (Some("log"), _) if target.kind.plural == "pods" => return log(call, &entry).await,
        (None, _) => {}
        (Some("status"), _) if target.kind.status => {}
        _ => return Err(ApiError::UnknownPath),
    }
    if form == Form::Object {
        return Ok(bytes_response(StatusCode::OK, entry.json.clone()));
    }
    Ok(json_response(StatusCode::OK, &form.one(&target.kind, entry.value(), true, Timestamp::now())))
}

async fn log(call: &Call<'_>, pod: &Entry) -> Result<Response, ApiError> {
    let query = &call.query;
    let since = match (query.get("sinceTime"), query.number::<i64>("sinceSeconds")?) {
        ("", None) => None,
        ("", Some(seconds)) => Some(Timestamp::now() - jiff::SignedDuration::from_secs(seconds)),
        (time, _) => {
            Some(time.parse().map_err(|_| ApiError::BadRequest(format!("invalid sinceTime: {time:?}")))?)
        }
    };
    let query = LogQuery {
        container: query.get("container").to_owned(),
        follow: query.flag("follow"),
        previous: query.flag("previous"),
        timestamps: query.flag("timestamps"),
        since,
        tail: query.number("tailLines")?,
        limit_bytes: query.number("limitBytes")?,
    };
    let stream = call.server.api.logs.read(&pod.value(), query)?;
    Ok(streamed("text/plain", stream))
}

fn watch_answer(call: &Call<'_>, target: &Target, form: Form) -> Result<Response, ApiError> {
    let query = &call.query;
    let revision = query.number::<u64>("resourceVersion")?.filter(|r| *r > 0);
    let send_initial = query.flag("sendInitialEvents");
    let wants_none = query.get("sendInitialEvents") == "false";
    let bookmarks = query.flag("allowWatchBookmarks");
    let seconds = query.number::<u64>("timeoutSeconds")?.filter(|s| *s > 0);
    let request = watch::WatchRequest {
        kind: target.kind.clone(),
        namespace: target.namespace.clone(),
        selector: selector(call, target)?,
        after: if send_initial { None } else { revision },
        initial: send_initial || (revision.is_none() && !wants_none),
        mark_initial_end: send_initial && bookmarks,
        bookmarks,
        timeout: seconds.map_or(WATCH_TIMEOUT, Duration::from_secs),
        form,
    };
    Ok(streamed("application/json", watch::start(&call.server.api, request)))
}

/// Where a list that comes in pieces goes on.
struct Continue {
    revision: u64,
    key: Key,
}

impl Continue {
    fn encode(&self) -> String {
        let token = json!([self.revision, self.key.namespace, self.key.name]);
        URL_SAFE_NO_PAD.encode(token.to_string())
    }

    fn decode(token: &str) -> Result<Self, ApiError> {
        let bytes = URL_SAFE_NO_PAD.decode(token).unwrap_or_default();
        match serde_json::from_slice::<(u64, String, String)>(&bytes) {
            Ok((revision, namespace, name)) => Ok(Self { revision, key: Key { namespace, name } }),
            Err(_) => Err(ApiError::BadRequest("continue key is not valid".into())),
        }
    }
}

fn list(call: &Call<'_>, target: &Target, form: Form) -> Result<Response, ApiError> {
    let selector = selector(call, target)?;
    let token = match call.query.get("continue") {
        "" => None,
        token => Some(Continue::decode(token)?),
    };
    let after = token.as_ref().map(|t| &t.key);
    let (mut found, mut revision) = call.server.api.store.list(&target.kind, &target.namespace, after);
    if let Some(asked) = call.query.number::<u64>("resourceVersion")?
        && call.query.get("resourceVersionMatch") == "Exact"
        && asked != revision
    {
        let why = format!("The provided resource version is not available: {asked} ({revision})");
        return Err(ApiError::Expired(why));
    }
    // Pieces of one list carry the revision of the first: a watch from there sees what changed between.
    revision = token.map_or(revision, |t| t.revision);
    found.retain(|e| selector.matches(e));
    let mut meta = json!({"resourceVersion": revision.to_string()});
    if let Some(limit) = call.query.number::<usize>("limit")?.filter(|l| *l > 0 && *l < found.len()) {
        let key = found[limit - 1].key.clone();
        meta["continue"] = json!(Continue { revision, key }.encode());
        meta["remainingItemCount"] = json!(found.len() - limit);
        found.truncate(limit);
    }
    let now = Timestamp::now();
    match form {
        Form::Table(include) => {
            let rows = found.iter().map(|e| table::row(&target.kind, &e.value(), include, now)).collect();
            let table = table::table(table::columns(&target.kind), rows, meta);
            Ok(json_response(StatusCode::OK, &table))
        }
        Form::Object => {
            let head = (target.kind.api_version(), format!("{}List", target.kind.kind));
            Ok(bytes_response(StatusCode::OK, joined(&head, &meta, found.iter().map(|e| &e.json[..])).into()))
        }
        Form::NewEvent | Form::Metadata => {
            let head = match form {
                Form::Metadata => ("meta.k8s.io/v1".into(), "PartialObjectMetadataList".into()),
                _ => ("events.k8s.io/v1".into(), "EventList".into()),
            };
            let items: Vec<_> =
                found.iter().map(|e| form.one(&target.kind, e.value(), false, now).to_string()).collect();
            Ok(bytes_response(
                StatusCode::OK,
                joined(&head, &meta, items.iter().map(String::as_bytes)).into(),
            ))
        }
    }
}

/// A list object around items that are encoded already.
fn joined<'a>(
    (version, kind): &(String, String),
    meta: &Value,
    items: impl Iterator<Item = &'a [u8]>,
) -> Vec<u8> {
    let mut out =
        format!("{{\"kind\":\"{kind}\",\"apiVersion\":\"{version}\",\"metadata\":{meta},\"items\":[")
            .into_bytes();
    for (index, item) in items.enumerate() {
        if index > 0 {
            out.push(b',');
        }
        out.extend_from_slice(item);
    }
    out.extend_from_slice(b"]}");
    out
}
