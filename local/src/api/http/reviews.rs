//! Reviews that clients ask about themselves. There is one user here, who may do everything.

use axum::response::Response;
use http::StatusCode;
use serde_json::{Value, json};

use super::{ApiError, json_response};

/// The user behind the platform's token.
const USER: &str = "kruntimes-local";

pub fn answer(review: &str, mut body: Value) -> Result<Response, ApiError> {
    body["status"] = match review {
        "selfsubjectaccessreviews" => {
            json!({"allowed": true, "reason": "the local platform has one user, who may do everything"})
        }
        "selfsubjectreviews" => json!({"userInfo": {"username": USER, "groups": ["system:authenticated"]}}),
        _ => return Err(ApiError::UnknownPath),
    };
    Ok(json_response(StatusCode::CREATED, &body))
}
