//! Which services there are: in a cluster from its API server, elsewhere from flags.

mod flags;

use std::sync::Arc;

use clap::Args;
use prometheus::Registry;

use self::flags::Routes;
use crate::services::Services;

/// Where the services are.
#[derive(Debug, Clone, Args)]
pub(crate) struct DiscoveryArgs {
    /// A service outside of a cluster, or several with spaces between:
    /// `NAME:PATH,PATH=http://HOST:PORT,grpc://HOST:PORT`. Left out: those of the cluster
    #[arg(long = "route", env = "ROUTES", value_name = "ROUTE")]
    routes: Vec<Routes>,
    /// The namespace whose services are routed; left out: the one this process runs in
    #[arg(long, env)]
    namespace: Option<String>,
}

/// What is known about the services, and goes on being found out.
pub(crate) struct Discovery {
    /// The services, as they are now.
    pub(crate) services: Services,
    ready: Arc<dyn Fn() -> Result<(), Arc<str>> + Send + Sync>,
}

impl Discovery {
    /// Whether all services are known: from then on for good, wherever the API server is.
    ///
    /// # Errors
    /// Why not, in a few words.
    pub(crate) fn ready(&self) -> Result<(), Arc<str>> {
        (self.ready)()
    }
}

/// Begins to look for the services.
///
/// # Errors
/// Where no flag names any and there is no API server to ask.
pub(crate) async fn start(args: &DiscoveryArgs, registry: &Registry) -> anyhow::Result<Discovery> {
    todo!()
}
