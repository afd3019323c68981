//! A service to run, and where it listens on this machine.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::Context;
pub use api::GATEWAY;

use crate::manifest::{MAX_LOCAL_PORT, Manifest};

/// The first ports of the ranges; a service adds its number to each.
const HTTP: u16 = 8080;
const ADMIN: u16 = 9090;
const GRPC: u16 = 50050;

/// A service with the addresses it listens on.
#[derive(Clone, Debug)]
pub struct Service {
    pub manifest: Manifest,
    /// Requests over HTTP.
    pub http: SocketAddr,
    /// Requests over gRPC, if the service has such a port.
    pub grpc: Option<SocketAddr>,
    /// Probes and metrics.
    pub admin: SocketAddr,
}

/// What a service uses an address for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    Http,
    Grpc,
    Admin,
}

impl Service {
    pub fn name(&self) -> &str {
        &self.manifest.name
    }

    /// Whether it routes requests to the others.
    pub fn is_gateway(&self) -> bool {
        self.name() == GATEWAY
    }

    /// The paths that the gateway routes to it.
    pub fn paths(&self) -> &[String] {
        self.manifest.spec.route.as_ref().map_or(&[], |route| &route.paths)
    }

    /// The name of its database and of its role, if it has one.
    pub fn database(&self) -> Option<&str> {
        let database = self.manifest.spec.database.as_ref()?;
        Some(database.name.as_deref().unwrap_or(self.name()))
    }

    /// Each address it listens on.
    pub fn addresses(&self) -> impl Iterator<Item = (Purpose, SocketAddr)> {
        let grpc = self.grpc.map(|address| (Purpose::Grpc, address));
        [Some((Purpose::Http, self.http)), grpc, Some((Purpose::Admin, self.admin))].into_iter().flatten()
    }

    /// Moves it to another address.
    pub fn set_address(&mut self, purpose: Purpose, address: SocketAddr) {
        match purpose {
            Purpose::Http => self.http = address,
            Purpose::Grpc => self.grpc = Some(address),
            Purpose::Admin => self.admin = address,
        }
    }

    /// The flag that sets an address, without the leading dashes.
    pub fn flag(&self, purpose: Purpose) -> String {
        let name = self.name();
        match purpose {
            Purpose::Http => format!("{name}-addr"),
            Purpose::Grpc => format!("{name}-grpc-addr"),
            Purpose::Admin => format!("{name}-admin-addr"),
        }
    }
}

/// The environment variable of a flag or a name: `users-admin-addr` is `USERS_ADMIN_ADDR`.
pub fn variable(name: &str) -> String {
    name.replace('-', "_").to_uppercase()
}

/// The address at which a client on this machine reaches what listens on `address`.
pub fn reachable(mut address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    address
}

/// Gives each service its default addresses, and puts callees before their callers and the gateway last: so they are
/// started, and no service logs a failure because a peer is not up yet. `manifests` are sorted by name.
pub fn plan(manifests: Vec<Manifest>) -> anyhow::Result<Vec<Service>> {
    let mut owners: BTreeMap<u16, String> = BTreeMap::new();
    for manifest in &manifests {
        owners.extend(manifest.local_port.map(|number| (number, manifest.name.clone())));
    }
    for manifest in manifests.iter().filter(|manifest| manifest.local_port.is_none()) {
        let free = (1..=MAX_LOCAL_PORT).find(|number| !owners.contains_key(number));
        owners.insert(free.context("there are too many services for the range of ports")?, manifest.name.clone());
    }
    let numbers: BTreeMap<String, u16> = owners.into_iter().map(|(number, name)| (name, number)).collect();

    let service = |manifest: Manifest| {
        let number = numbers.get(&manifest.name).copied().unwrap_or_default();
        let local = |base| SocketAddr::from((Ipv4Addr::LOCALHOST, base + number));
        let grpc = manifest.spec.ports.grpc.map(|_| local(GRPC));
        Service { manifest, http: local(HTTP), grpc, admin: local(ADMIN) }
    };
    Ok(in_order_of_calls(manifests).into_iter().map(service).collect())
}

fn in_order_of_calls(mut waiting: Vec<Manifest>) -> Vec<Manifest> {
    let mut ordered = Vec::new();
    while !waiting.is_empty() {
        let is_waiting = |name: &str| waiting.iter().any(|manifest| manifest.name == *name);
        let is_next = |manifest: &Manifest| {
            manifest.name != GATEWAY
                && !manifest.spec.calls.iter().any(|name| *name != manifest.name && is_waiting(name))
        };
        // In a cycle of calls the order does not matter.
        let next = waiting.iter().position(is_next).or(waiting.iter().position(|manifest| manifest.name != GATEWAY));
        ordered.push(waiting.remove(next.unwrap_or(0)));
    }
    ordered
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A service called `name` that calls `calls`.
    pub fn manifest(name: &str, calls: &[&str], local_port: Option<u16>, spec: &str) -> Manifest {
        let text = format!(
            "{{apiVersion: hedgerow.dev/v1alpha1, kind: Microservice, metadata: {{name: {name}}}, \
             spec: {{image: 'r/x:1', calls: [{}], {spec}}}}}",
            calls.join(", ")
        );
        let object = api::parse(&text).unwrap().remove(0);
        Manifest {
            name: name.to_owned(),
            spec: object.spec,
            command: None,
            local_port,
            examples: Vec::new(),
            file: "a.yaml".to_owned(),
            folder: "/".into(),
        }
    }

    fn names(manifests: Vec<Manifest>) -> Vec<String> {
        plan(manifests).unwrap().into_iter().map(|service| service.manifest.name).collect()
    }

    #[test]
    fn callees_come_before_callers_and_the_gateway_comes_last() {
        let of = |name, calls: &[&str]| manifest(name, calls, None, "");
        assert_eq!(
            names(vec![of("a", &["c"]), of("b", &[]), of("c", &["elsewhere"]), of(GATEWAY, &[])]),
            ["b", "c", "a", GATEWAY]
        );
        assert_eq!(
            names(vec![of("a", &["b"]), of("b", &["a"]), of("c", &[GATEWAY]), of(GATEWAY, &["a"])]),
            ["a", "b", "c", GATEWAY]
        );
    }

    #[test]
    fn services_without_a_number_get_the_lowest_free_one() {
        let manifests = vec![
            manifest("a", &[], None, ""),
            manifest("b", &[], Some(1), "ports: {grpc: 50051}"),
            manifest("c", &[], None, ""),
            manifest(GATEWAY, &[], Some(0), ""),
        ];
        let addresses: Vec<_> = plan(manifests)
            .unwrap()
            .iter()
            .map(|service| service.addresses().map(|(_, address)| address.to_string()).collect::<Vec<_>>().join(" "))
            .collect();
        let expected = [
            "127.0.0.1:8082 127.0.0.1:9092",
            "127.0.0.1:8081 127.0.0.1:50051 127.0.0.1:9091",
            "127.0.0.1:8083 127.0.0.1:9093",
            "127.0.0.1:8080 127.0.0.1:9090",
        ];
        assert_eq!(addresses, expected);
    }
}
