//! The admin port: probes and metrics, for the cluster and not for clients.

use axum::{
    Router,
    extract::State,
    response::{IntoResponse, Response},
    routing::get,
};
use http::header;

use crate::{health::Health, metrics::Metrics, problem::Problem};

/// `/livez`, `/readyz` and `/metrics`.
pub(crate) fn routes(health: Health, metrics: Metrics) -> Router {
    Router::new()
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(ready).with_state(health))
        .route("/metrics", get(render_metrics).with_state(metrics))
        .fallback(async || Problem::not_found("the admin port has /livez, /readyz and /metrics"))
}

async fn ready(State(health): State<Health>) -> Response {
    match health.ready() {
        Ok(()) => "ok\n".into_response(),
        Err(reason) => Problem::unavailable(reason.to_string()).into_response(),
    }
}

async fn render_metrics(State(metrics): State<Metrics>) -> Result<impl IntoResponse, Problem> {
    let (text, media_type) = metrics.render().map_err(Problem::internal)?;
    Ok(([(header::CONTENT_TYPE, media_type)], text))
}
