//! The admin port: probes and metrics, for the cluster and not for clients.

use std::{net::SocketAddr, sync::Arc};

use axum::{
    Router,
    extract::State,
    response::{IntoResponse, Response},
    routing::get,
};
use http::header;
use prometheus::Registry;

use crate::{life::Life, metrics, problem::Problem, process, server::Server};

/// What a probe is told: `Ok`, or why not in a few words.
pub type Check = Arc<dyn Fn() -> Result<(), Arc<str>> + Send + Sync>;

/// What the probes ask for.
#[derive(Clone)]
pub struct Checks {
    /// Whether the process works; where not, it is to be restarted.
    pub live: Check,
    /// Whether it can do its work now.
    pub ready: Check,
}

/// `/livez`, `/readyz` and `/metrics`.
pub(crate) fn routes(checks: Checks, registry: Registry) -> Router {
    Router::new()
        .route("/livez", get(check).with_state(checks.live))
        .route("/readyz", get(check).with_state(checks.ready))
        .route("/metrics", get(render_metrics).with_state(registry))
        .fallback(async || Problem::not_found("the admin port has /livez, /readyz and /metrics"))
}

/// Serves `/livez`, `/readyz` and `/metrics` until the process ends, for one that is no [`Service`](crate::Service).
/// Returns the address it is bound to.
///
/// # Errors
/// Where the address cannot be bound.
pub fn serve_admin(address: SocketAddr, registry: Registry, checks: Checks) -> anyhow::Result<SocketAddr> {
    let listener = process::bind(address)?;
    let address = listener.local_addr()?;
    tokio::spawn(Server::default().serve(listener, routes(checks, registry), Life::endless()));
    Ok(address)
}

async fn check(State(check): State<Check>) -> Response {
    match check() {
        Ok(()) => "ok\n".into_response(),
        Err(reason) => Problem::unavailable(reason.to_string()).into_response(),
    }
}

async fn render_metrics(State(registry): State<Registry>) -> Result<impl IntoResponse, Problem> {
    let (text, media_type) = metrics::render(&registry).map_err(Problem::internal)?;
    Ok(([(header::CONTENT_TYPE, media_type)], text))
}
