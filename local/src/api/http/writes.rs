//! Create, update, patch, delete and delete-collection.

use axum::response::Response;
use http::{HeaderValue, Method, StatusCode, header};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::form::Form;
use super::target::Target;
use super::{ApiError, Call, bytes_response, json_response};
use crate::api::errors::Cause;
use crate::api::patch::{self, Patch};
use crate::api::selector::Selector;
use crate::api::{DeleteOptions, Deleted, Sub, Written, events, scale};
use crate::kinds::ScalePaths;
use crate::object::text;
use crate::store::{Entry, Key};

pub async fn answer(call: &Call<'_>, target: &Target) -> Result<Response, ApiError> {
    if !target.kind.writable {
        let why = format!("{} are fixed on the local platform", target.kind.plural);
        return Err(ApiError::MethodNotAllowed(why));
    }
    let key = target.key();
    match (&call.method, key, target.sub.as_deref()) {
        (&Method::POST, None, None) => create(call, target).await,
        (&Method::DELETE, Some(key), None) => delete(call, target, &key).await,
        (&Method::DELETE, None, None) => delete_collection(call, target).await,
        (&Method::PUT | &Method::PATCH, Some(key), sub) => {
            let sub = match (sub, &target.kind.scale) {
                (None, _) => Sub::Main,
                (Some("status"), _) if target.kind.status => Sub::Status,
                (Some("scale"), Some(paths)) => return scale_write(call, target, &key, paths).await,
                _ => return Err(ApiError::UnknownPath),
            };
            if call.method == Method::PUT {
                replace(call, target, &key, sub).await
            } else {
                patch(call, target, &key, sub).await
            }
        }
        (method, _, _) => Err(ApiError::MethodNotAllowed(method.to_string())),
    }
}

fn form(call: &Call<'_>, target: &Target) -> Form {
    Form::accepted(call.header(header::ACCEPT), call.query.get("includeObject"), target.new_events)
}

fn written(call: &Call<'_>, target: &Target, written: &Written) -> Response {
    let code = if written.created { StatusCode::CREATED } else { StatusCode::OK };
    let mut response = shown(call, target, code, &written.entry);
    for warning in &written.warnings {
        let quoted = warning.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
    response
}

fn shown(call: &Call<'_>, target: &Target, code: StatusCode, entry: &Entry) -> Response {
    match form(call, target) {
        Form::Object => bytes_response(code, entry.json.clone()),
        form => json_response(code, &form.one(&target.kind, entry.value(), true, Timestamp::now())),
    }
}

async fn create(call: &Call<'_>, target: &Target) -> Result<Response, ApiError> {
    let mut object = call.json()?;
    if target.new_events {
        events::to_core(&mut object);
    }
    if target.kind.namespaced && target.namespace.is_empty() {
        return Err(ApiError::BadRequest("an empty namespace may not be set during creation".into()));
    }
    let options = call.query.write_options();
    let done = call.server.api.create(&target.kind, &target.namespace, object, &options).await?;
    Ok(written(call, target, &done))
}

async fn replace(call: &Call<'_>, target: &Target, key: &Key, sub: Sub) -> Result<Response, ApiError> {
    let mut object = call.json()?;
    if target.new_events {
        events::to_core(&mut object);
    }
    if target.kind.custom() && text(&object, "/metadata/resourceVersion").is_empty() {
        let why = "must be specified for an update";
        return Err(ApiError::Invalid {
            kind: target.kind.qualified(),
            name: key.name.clone(),
            causes: vec![Cause::invalid("metadata.resourceVersion", &json!(0), why)],
        });
    }
    let edit = |_: &Value| Ok(object.clone());
    let done = call.server.api.update(&target.kind, key, sub, edit, &call.query.write_options()).await?;
    Ok(written(call, target, &done))
}

async fn patch(call: &Call<'_>, target: &Target, key: &Key, sub: Sub) -> Result<Response, ApiError> {
    let mut change = Patch::parse(call.header(header::CONTENT_TYPE), &call.body)?;
    if target.new_events
        && let Patch::Merge(body) | Patch::Strategic(body) | Patch::Apply(body) = &mut change
    {
        events::to_core(body);
    }
    let manager = match call.query.get("fieldManager") {
        "" if matches!(change, Patch::Apply(_)) => {
            return Err(ApiError::BadRequest("fieldManager is required for apply patch".into()));
        }
        manager => manager,
    };
    let api = &call.server.api;
    let options = call.query.write_options();
    let edit = |old: &Value| change.apply_to(&target.kind, old, manager);
    loop {
        match api.update(&target.kind, key, sub, edit, &options).await {
            Err(ApiError::NotFound { .. }) if sub == Sub::Main => {
                let Patch::Apply(config) = &change else {
                    return Err(ApiError::NotFound {
                        resource: target.kind.resource(),
                        name: key.name.clone(),
                    });
                };
                let mut object = patch::created_by_apply(&target.kind, config, manager);
                if text(&object, "/metadata/name").is_empty() {
                    crate::object::set(&mut object, &["metadata", "name"], json!(key.name));
                }
                match api.create(&target.kind, &key.namespace, object, &options).await {
                    // Someone else made it between our two looks: merge into theirs.
                    Err(ApiError::AlreadyExists { .. }) => {}
                    done => return Ok(written(call, target, &done?)),
                }
            }
            done => return Ok(written(call, target, &done?)),
        }
    }
}

async fn scale_write(
    call: &Call<'_>,
    target: &Target,
    key: &Key,
    paths: &ScalePaths,
) -> Result<Response, ApiError> {
    let change = match call.method {
        Method::PUT => None,
        _ => Some(Patch::parse(call.header(header::CONTENT_TYPE), &call.body)?),
    };
    let body = if change.is_none() { call.json()? } else { Value::Null };
    let edit = |old: &Value| {
        let mut new_scale = scale::of(paths, old);
        match &change {
            None => new_scale = body.clone(),
            Some(Patch::Merge(p) | Patch::Strategic(p) | Patch::Apply(p)) => {
                json_patch::merge(&mut new_scale, p)
            }
            Some(Patch::Json(p)) => json_patch::patch(&mut new_scale, p)
                .map_err(|e| ApiError::BadRequest(format!("the patch does not fit: {e}")))?,
        }
        scale::apply(&target.kind, paths, old, &new_scale)
    };
    let options = call.query.write_options();
    let done = call.server.api.update(&target.kind, key, Sub::Main, edit, &options).await?;
    Ok(json_response(StatusCode::OK, &scale::of(paths, &done.entry.value())))
}

fn delete_options(call: &Call<'_>) -> Result<DeleteOptions, ApiError> {
    let body = if call.body.is_empty() { json!({}) } else { call.json()? };
    let word = |pointer: &str| body.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
    let policy = match text(&body, "/propagationPolicy") {
        "" => call.query.get("propagationPolicy"),
        policy => policy,
    };
    Ok(DeleteOptions {
        uid: word("/preconditions/uid"),
        resource_version: word("/preconditions/resourceVersion"),
        grace_period: match body["gracePeriodSeconds"].as_i64() {
            Some(seconds) => Some(seconds),
            None => call.query.number("gracePeriodSeconds")?,
        },
        orphan: policy == "Orphan" || body["orphanDependents"] == true,
        dry_run: call.query.get("dryRun") == "All" || body["dryRun"] == json!(["All"]),
    })
}

async fn delete(call: &Call<'_>, target: &Target, key: &Key) -> Result<Response, ApiError> {
    let options = delete_options(call)?;
    match call.server.api.delete(&target.kind, key, &options).await? {
        Deleted::Marked(entry) => Ok(shown(call, target, StatusCode::OK, &entry)),
        Deleted::Gone(entry) => Ok(json_response(
            StatusCode::OK,
            &json!({
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
                "details": {
                    "name": key.name, "group": target.kind.group, "kind": target.kind.plural, "uid": entry.uid,
                },
            }),
        )),
    }
}

async fn delete_collection(call: &Call<'_>, target: &Target) -> Result<Response, ApiError> {
    let options = delete_options(call)?;
    let selector =
        Selector::parse(&target.kind, call.query.get("labelSelector"), call.query.get("fieldSelector"))?;
    let api = &call.server.api;
    let (found, revision) = api.store.list(&target.kind, &target.namespace, None);
    let mut items = Vec::new();
    for entry in found.iter().filter(|e| selector.matches(e)) {
        match api.delete(&target.kind, &entry.key, &options).await {
            Ok(_) => items.push(entry.value()),
            Err(ApiError::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    let list = json!({
        "kind": format!("{}List", target.kind.kind), "apiVersion": target.kind.api_version(),
        "metadata": {"resourceVersion": revision.to_string()}, "items": items,
    });
    Ok(json_response(StatusCode::OK, &list))
}
