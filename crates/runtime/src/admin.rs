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

use crate::{lifecycle::Lifecycle, listener, metrics, problem::Problem, server::Server};

/// A check behind a probe. It returns `Ok`, or the reason in a few words.
pub type Check = Arc<dyn Fn() -> Result<(), Arc<str>> + Send + Sync>;

/// The checks behind the probes.
#[derive(Clone)]
pub struct Checks {
    /// Liveness: if it fails, the process must be restarted.
    pub live: Check,
    /// Readiness: whether the process can serve requests now.
    pub ready: Check,
}

/// Builds the routes `/livez`, `/readyz` and `/metrics`.
pub(crate) fn routes(checks: Checks, registry: Registry) -> Router {
    Router::new()
        .route("/livez", get(check).with_state(checks.live))
        .route("/readyz", get(check).with_state(checks.ready))
        .route("/metrics", get(render_metrics).with_state(registry))
        .fallback(async || Problem::not_found("the admin port has /livez, /readyz and /metrics"))
}

/// Serves `/livez`, `/readyz` and `/metrics` until the process exits, for a process that serves nothing else. Returns
/// the address it is bound to.
///
/// # Errors
/// Returns an error if the address cannot be bound.
pub fn serve_admin(address: SocketAddr, registry: Registry, checks: Checks) -> anyhow::Result<SocketAddr> {
    let listener = listener::bind(address)?;
    let address = listener.local_addr()?;
    tokio::spawn(Server::default().serve(listener, routes(checks, registry), Lifecycle::endless()));
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
