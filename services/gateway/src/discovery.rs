//! Which services there are: in a cluster from its API server, elsewhere from flags.

mod flags;
mod kubernetes;
mod path;

use std::sync::Arc;

use clap::Args;
use prometheus::Registry;
use tokio::sync::watch;

use self::flags::Routes;
use crate::services::{Service, Services};

/// Where the services are.
#[derive(Debug, Clone, Args)]
pub(crate) struct DiscoveryArgs {
    /// A service outside of a cluster, as `NAME:/PATH,/PATH=http://HOST:PORT,grpc://HOST:PORT`, or several with spaces
    /// between; left out: those of the cluster
    #[arg(long = "route", env = "ROUTES", value_name = "ROUTE")]
    routes: Vec<Routes>,
    /// The namespace whose services have routes; left out: the one this process runs in
    #[arg(long, env)]
    namespace: Option<String>,
}

/// What is known of the services; it goes on being found out.
pub(crate) struct Discovery {
    /// The services, as they are now.
    pub(crate) services: Services,
    complete: watch::Receiver<bool>,
}

/// Where what is found out goes.
struct Publisher {
    services: watch::Sender<Arc<[Service]>>,
    complete: watch::Sender<bool>,
}

impl Discovery {
    fn new() -> (Publisher, Self) {
        let (services, known) = watch::channel(Arc::default());
        let (complete, is_complete) = watch::channel(false);
        (Publisher { services, complete }, Self { services: known, complete: is_complete })
    }

    /// Whether all services were known once: the last that was known is used for as long as it takes.
    ///
    /// # Errors
    /// Why not, in a few words.
    pub(crate) fn ready(&self) -> Result<(), Arc<str>> {
        if *self.complete.borrow() { Ok(()) } else { Err("the services are not known yet".into()) }
    }

    /// Whether it is still being found out; where not, by a mistake in the code, only a new process helps.
    ///
    /// # Errors
    /// That it is not, in a few words.
    pub(crate) fn live(&self) -> Result<(), Arc<str>> {
        // The sender is the task's.
        if self.complete.has_changed().is_ok() { Ok(()) } else { Err("nobody looks for services any more".into()) }
    }
}

impl Publisher {
    /// Tells which services there are now, where that is new.
    fn publish(&self, services: Vec<Service>) {
        self.services.send_if_modified(|known| {
            let new = **known != *services;
            if new {
                tell_of(known, &services);
                *known = services.into();
            }
            new
        });
        self.complete.send_if_modified(|complete| !std::mem::replace(complete, true));
    }
}

/// Logs which services have appeared and which are gone. Both lists are sorted by name.
fn tell_of(before: &[Service], now: &[Service]) {
    let find = |list: &[Service], service: &Service| list.binary_search_by(|other| other.name.cmp(&service.name)).ok();
    for service in now {
        if find(before, service).is_none_or(|index| before[index].paths != service.paths) {
            tracing::info!(service = service.name, paths = service.paths.join(" "), "routed");
        }
    }
    for service in before.iter().filter(|service| find(now, service).is_none()) {
        tracing::info!(service = service.name, "no longer routed");
    }
}

/// Begins to look for the services.
///
/// # Errors
/// Where flags name services that do not go together, or none and there is no API server to ask.
pub(crate) async fn start(args: &DiscoveryArgs, registry: &Registry) -> anyhow::Result<Discovery> {
    let (publisher, discovery) = Discovery::new();
    let routes: Vec<_> = args.routes.iter().flat_map(|routes| &routes.0).cloned().collect();
    if routes.is_empty() {
        kubernetes::start(args.namespace.as_deref(), registry, publisher).await?;
    } else {
        flags::start(routes, publisher)?;
    }
    Ok(discovery)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(name: &str, address: &str) -> Service {
        let http = vec![address.parse().expect("an address")];
        Service { name: name.to_owned(), paths: vec![format!("/{name}")], http, grpc: None }
    }

    #[test]
    fn it_is_ready_from_the_first_list_on_even_an_empty_one() {
        let (publisher, discovery) = Discovery::new();
        assert!(discovery.ready().is_err());
        publisher.publish(Vec::new());
        assert!(discovery.ready().is_ok() && discovery.live().is_ok());
        drop(publisher);
        assert!(discovery.ready().is_ok(), "what is known is still of use");
        assert!(discovery.live().is_err());
    }

    #[test]
    fn what_is_no_change_is_not_told() {
        let (publisher, discovery) = Discovery::new();
        let mut services = discovery.services.clone();
        let mut tell = |list| {
            publisher.publish(list);
            let told = services.has_changed().expect("it goes on");
            services.mark_unchanged();
            told
        };
        assert!(tell(vec![service("a", "10.0.0.1:80")]));
        assert!(!tell(vec![service("a", "10.0.0.1:80")]));
        assert!(tell(vec![service("a", "10.0.0.2:80")]));
        assert!(tell(Vec::new()));
    }
}
