//! What operators and readers of the documentation use. Outside of the limits, so that it answers when nothing else does.

use std::sync::OnceLock;

use axum::{
    Json, Router,
    extract::Path,
    http::{StatusCode, header},
    response::{Html, IntoResponse, Redirect, Response},
    routing::get,
};
use serde_json::json;
use utoipa_swagger_ui::{Config, SwaggerUi};

use crate::{
    gateway::Gateway,
    health, metrics,
    problem::{Code, Problem},
};

/// The routes without a policy.
pub(super) fn router() -> Router<Gateway> {
    Router::new()
        .route("/", get(async || Redirect::to("/docs/")))
        .route("/livez", get(health::live))
        .route("/readyz", get(health::ready))
        .route("/metrics", get(metrics_text))
        .route("/version", get(version))
        .route("/openapi.json", get(openapi))
        .route("/asyncapi.json", get(asyncapi))
        .route("/problems/{code}", get(problem))
        .merge(SwaggerUi::new("/docs").config(Config::from("/openapi.json").validator_url("none")))
}

async fn metrics_text() -> Response {
    match metrics::text() {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "the metrics cannot be written");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

async fn version() -> Response {
    Json(json!({ "name": "chancery", "version": env!("CARGO_PKG_VERSION") })).into_response()
}

async fn openapi() -> Response {
    static TEXT: OnceLock<String> = OnceLock::new();
    crate::answer::json(TEXT.get_or_init(|| crate::openapi::openapi().to_string()).as_str())
}

async fn asyncapi() -> Response {
    static TEXT: OnceLock<String> = OnceLock::new();
    crate::answer::json(TEXT.get_or_init(|| crate::asyncapi::asyncapi().to_string()).as_str())
}

async fn problem(Path(code): Path<String>) -> Response {
    match Code::all().find(|known| known.name() == code) {
        Some(code) => Html(code.html()).into_response(),
        None => Problem::new(Code::RouteNotFound).into_response(),
    }
}
