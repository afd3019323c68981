//! Services given by flags. Their routes are fixed; their host names are resolved again every few seconds.

use std::{collections::BTreeMap, net::SocketAddr, str::FromStr, sync::Arc, time::Duration};

use anyhow::bail;
use futures_util::future::join_all;
use http::uri::Authority;
use runtime::authority;
use serde_json::Value;
use tokio::{net, time};

use super::{
    prefix::normalize,
    publisher::{Publisher, Service},
};
use crate::auth::Access;

/// Time between two lookups of a host name, and the time limit for one.
const LOOKUP_INTERVAL: Duration = Duration::from_secs(5);
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);

/// The routes of one `--route` flag, or of the environment variable.
#[derive(Debug, Clone)]
pub(super) struct RouteFlags(pub(super) Vec<RouteFlag>);

/// A service, its path prefixes and its addresses.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct RouteFlag {
    name: String,
    paths: Vec<String>,
    http: Vec<Authority>,
    grpc: Vec<Authority>,
    idempotency_keys: Vec<String>,
}

/// A host and the addresses that the last successful lookup found.
struct Host {
    authority: Authority,
    addresses: Vec<SocketAddr>,
    /// Whether the last lookup failed. A failure is logged once, not at every lookup.
    is_failing: bool,
}

impl FromStr for RouteFlags {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.split_whitespace().map(str::parse).collect::<Result<_, _>>().map(Self)
    }
}

/// Which requests are let in, by the name of the service.
#[derive(Debug, Clone, Default)]
pub(super) struct AuthFlag(BTreeMap<String, Arc<Access>>);

impl FromStr for AuthFlag {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let services: BTreeMap<String, Value> =
            serde_json::from_str(text).map_err(|error| format!("expected a JSON object: {error}"))?;
        let access = services.into_iter().map(|(name, auth)| {
            let access = Access::new(Some(&auth));
            match access.closed() {
                Some(reason) => Err(format!("{name}: {reason}")),
                None => Ok((name, Arc::new(access))),
            }
        });
        access.collect::<Result<_, _>>().map(Self)
    }
}

impl FromStr for RouteFlag {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const FORM: &str = "NAME:/PATH,/PATH=http://HOST:PORT,grpc://HOST:PORT";
        let parts = text.split_once('=').and_then(|(claim, urls)| Some((claim.split_once(':')?, urls)));
        let ((name, paths), urls) = parts.ok_or_else(|| format!("{text:?} is not a route; expected {FORM}"))?;
        if !is_service_name(name) {
            return Err(format!(
                "invalid service name {name:?}: use up to 63 lowercase letters, digits and hyphens, starting with a letter"
            ));
        }
        let path =
            |path: &str| normalize(path).ok_or_else(|| format!("invalid path {path:?}; expected one like /orders"));
        let mut route = Self {
            name: name.to_owned(),
            paths: paths.split(',').map(path).collect::<Result<_, _>>()?,
            http: Vec::new(),
            grpc: Vec::new(),
            idempotency_keys: Vec::new(),
        };
        for url in urls.split(',') {
            if let Some(prefix) = url.strip_prefix("idempotency-keys:") {
                route.idempotency_keys.push(path(prefix)?);
                continue;
            }
            let invalid = || format!("invalid URL {url:?}; expected http://HOST:PORT or grpc://HOST:PORT");
            let (list, host) = match url.split_once("://") {
                Some(("http", host)) => (&mut route.http, host),
                Some(("grpc", host)) => (&mut route.grpc, host),
                _ => return Err(invalid()),
            };
            list.push(authority::parse(host.strip_suffix('/').unwrap_or(host)).ok_or_else(invalid)?);
        }
        if route.http.is_empty() {
            return Err(format!("the route of {name} has no http://HOST:PORT"));
        }
        Ok(route)
    }
}

/// Whether Kubernetes would accept the name for a Service.
fn is_service_name(name: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    name.len() <= 63
        && name.starts_with(|first: char| first.is_ascii_lowercase())
        && !name.ends_with('-')
        && name.bytes().all(is_allowed)
}

/// Publishes the services of these routes, and resolves their hosts again and again.
///
/// # Errors
/// Returns an error if two routes have the same name or path, or if there are rules for a service without a route.
pub(super) fn start(mut routes: Vec<RouteFlag>, auth: AuthFlag, publisher: Publisher) -> anyhow::Result<()> {
    routes.sort_by(|one, other| one.name.cmp(&other.name));
    check_disjoint(&routes).map_err(anyhow::Error::msg)?;
    let AuthFlag(mut access) = auth;
    if let Some(name) = access.keys().find(|name| !routes.iter().any(|route| route.name == **name)) {
        bail!("ROUTE_AUTH (--route-auth) names {name:?}, which has no route");
    }
    let hosts = |list: Vec<Authority>| -> Vec<Host> { list.into_iter().map(Host::new).collect() };
    let mut services: Vec<_> = routes
        .into_iter()
        .map(|route| {
            let access = access.remove(&route.name).unwrap_or_default();
            let service = Service {
                name: route.name,
                paths: route.paths,
                http: Vec::new(),
                grpc: None,
                idempotency_keys: route.idempotency_keys,
                access,
            };
            (service, hosts(route.http), hosts(route.grpc))
        })
        .collect();
    tokio::spawn(async move {
        loop {
            let hosts = services.iter_mut().flat_map(|(_, http, grpc)| http.iter_mut().chain(grpc));
            join_all(hosts.map(Host::look_up)).await;
            publisher.publish(services.iter().map(|(service, http, grpc)| resolved(service, http, grpc)).collect());
            time::sleep(LOOKUP_INTERVAL).await;
        }
    });
    Ok(())
}

/// The service with the current addresses of its hosts.
fn resolved(service: &Service, http: &[Host], grpc: &[Host]) -> Service {
    let addresses = |hosts: &[Host]| {
        let mut addresses: Vec<_> = hosts.iter().flat_map(|host| &host.addresses).copied().collect();
        addresses.sort_unstable();
        addresses.dedup();
        addresses
    };
    Service { http: addresses(http), grpc: (!grpc.is_empty()).then(|| addresses(grpc)), ..service.clone() }
}

fn check_disjoint(routes: &[RouteFlag]) -> Result<(), String> {
    for (index, route) in routes.iter().enumerate() {
        for other in &routes[..index] {
            if route.name == other.name {
                return Err(format!("two routes are named {}", route.name));
            }
            if let Some(path) = route.paths.iter().find(|path| other.paths.contains(path)) {
                return Err(format!("{} and {} both claim {path}", other.name, route.name));
            }
        }
    }
    Ok(())
}

impl Host {
    fn new(authority: Authority) -> Self {
        Self { authority, addresses: Vec::new(), is_failing: false }
    }

    /// Resolves the host. If that fails, the known addresses stay in use: health checks and ejection find out whether
    /// they still work.
    async fn look_up(&mut self) {
        let result = time::timeout(LOOKUP_TIMEOUT, net::lookup_host(self.authority.as_str())).await;
        match result.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into())) {
            Ok(addresses) => {
                self.addresses = addresses.collect();
                if std::mem::replace(&mut self.is_failing, false) {
                    tracing::info!(host = %self.authority, "route host resolves again");
                }
            }
            Err(error) if !self.is_failing => {
                self.is_failing = true;
                let known = self.addresses.len();
                tracing::warn!(host = %self.authority, known, %error, "cannot resolve the host of a route; keeping its known addresses");
            }
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests;
