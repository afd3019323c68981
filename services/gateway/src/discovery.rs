//! Service discovery: from the Kubernetes API server in a cluster, from flags elsewhere.
//!
//! In a cluster, `kubernetes` reads the paths of each service from the route annotation of its Service.

mod flags;
mod kubernetes;
mod prefix;
mod publisher;

use clap::Args;
use prometheus::Registry;

use self::flags::{AuthFlag, RouteFlags};
pub(crate) use self::publisher::{Discovery, Service, Services};

/// Where services are found.
#[derive(Debug, Clone, Args)]
pub(crate) struct DiscoveryArgs {
    /// A service and its addresses, as `NAME:/PATH,/PATH=http://HOST:PORT,grpc://HOST:PORT`; can be repeated, and one
    /// value may hold several routes separated by spaces. `,idempotency-keys:/PATH` at the end says that every POST and
    /// PATCH below the path honors Idempotency-Key, so that it may be sent again. If unset, services are discovered
    /// through the Kubernetes API
    #[arg(long = "route", env = "ROUTES", value_name = "ROUTE")]
    routes: Vec<RouteFlags>,
    /// Who may send which requests, as a JSON object with the field `route.auth` of each service by its name, such as
    /// `{"orders": {"mode": "required"}}`. Only together with routes
    #[arg(long, env, value_name = "JSON", requires = "routes")]
    route_auth: Option<AuthFlag>,
    /// Namespace in which services are discovered [default: the namespace of this pod]
    #[arg(long, env)]
    namespace: Option<String>,
}

/// Starts to discover services.
///
/// # Errors
/// Returns an error if two routes given by flags conflict, or if there are none and no API server can be found.
pub(crate) async fn start(args: &DiscoveryArgs, registry: &Registry) -> anyhow::Result<Discovery> {
    let (publisher, discovery) = publisher::channel();
    let routes: Vec<_> = args.routes.iter().flat_map(|routes| &routes.0).cloned().collect();
    if routes.is_empty() {
        kubernetes::start(args.namespace.as_deref(), registry, publisher).await?;
    } else {
        flags::start(routes, args.route_auth.clone().unwrap_or_default(), publisher)?;
    }
    Ok(discovery)
}
