//! `/livez`, `/readyz` and `/metrics` of a worker or consumer, and of a gateway that may not begin yet.

use std::net::SocketAddr;

use axum::{Json, Router, http::StatusCode, response::IntoResponse, routing::get};
use prometheus::{Encoder as _, TextEncoder};
use runtime::{Stop, health};
use serde_json::{Map, Value, json};

/// Serves until `ended` is cancelled; not ready any more once `stop` is.
///
/// # Errors
/// The address is taken.
pub async fn serve(address: SocketAddr, role: &'static str, stop: Stop, ended: Stop) -> std::io::Result<()> {
    let listener = tokio::net::TcpListener::bind(address).await?;
    let routes = Router::new()
        .route("/livez", get(|| async { "live\n" }))
        .route("/readyz", get(move || async move { readiness(role, stop.is_cancelled()) }))
        .route("/metrics", get(metrics))
        // Not 404: at a gateway's address it would say that something is not there.
        .fallback(|| async { (StatusCode::SERVICE_UNAVAILABLE, "see /readyz\n") });
    axum::serve(listener, routes).with_graceful_shutdown(async move { ended.cancelled().await }).await
}

fn readiness(role: &str, stopping: bool) -> impl IntoResponse + use<> {
    let parts = health::parts();
    // Nothing noted yet but the schema, by which it may begin, means that the role is still starting.
    let begun = parts.keys().any(|part| *part != health::SCHEMA);
    let ready = !stopping && begun && parts.values().all(|(fine, _)| *fine);
    let parts: Map<String, Value> =
        parts.into_iter().map(|(part, (fine, detail))| (part.to_owned(), json!({ "ready": fine, "detail": detail }))).collect();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(json!({ "role": role, "ready": ready, "stopping": stopping, "parts": parts })))
}

async fn metrics() -> impl IntoResponse {
    let mut text = Vec::new();
    match TextEncoder::new().encode(&prometheus::gather(), &mut text) {
        Ok(()) => (StatusCode::OK, [("content-type", "text/plain; version=0.0.4")], text),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, [("content-type", "text/plain")], error.to_string().into_bytes()),
    }
}
