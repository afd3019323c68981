//! Routes each request to an endpoint of the service that owns its path, and passes the response back.
//!
//! Every request is one [`exchange`], which goes through the phases `request_filter`, `upstream_request`,
//! `response_filter` and `log`.

mod access_record;
mod attempt;
mod connect;
mod dot_segments;
mod endpoint;
mod exchange;
mod health;
mod host;
mod http1;
mod http2;
mod in_flight;
mod max_forwards;
mod outcome;
mod replayable_body;
mod response_body;
mod retry;
mod retry_budget;
mod route_table;
mod route_updater;
mod state;
mod tunnel;
mod unread;
mod upstream;

use std::sync::Arc;

use http::{Request, Response};
use runtime::server::{App, Peer, RequestBody};

use exchange::{Exchange, ExchangeBody};
use route_updater::RouteUpdater;
use state::Proxy;
pub(crate) use state::{Limits, ProxyDeps, Timeouts};

/// Serves requests by passing them on.
#[derive(Clone)]
pub(crate) struct Gateway(Arc<Proxy>);

impl Gateway {
    /// Applies the services known now, and follows discovery from then on.
    pub(crate) fn start(deps: ProxyDeps) -> Self {
        let mut services = deps.services.clone();
        let mut updater = RouteUpdater::new(&deps.metrics, deps.workers);
        let proxy = Proxy::new(deps, updater.routes());
        let known = services.borrow_and_update().clone();
        updater.apply(&known);
        tokio::spawn(updater.follow(services));
        Self(Arc::new(proxy))
    }
}

impl App for Gateway {
    type Body = ExchangeBody;

    async fn respond(self, request: Request<RequestBody>, peer: Peer) -> Response<ExchangeBody> {
        let (mut parts, body) = request.into_parts();
        Exchange::begin(self.0, &mut parts, peer).run(parts, body).await
    }
}

#[cfg(test)]
mod tests;
