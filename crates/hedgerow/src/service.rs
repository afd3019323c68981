//! A service to run, and where it listens on this machine.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

pub use api::GATEWAY;

use crate::manifest::Manifest;

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

    /// The address it uses for this, if it has one.
    pub fn address(&self, purpose: Purpose) -> Option<SocketAddr> {
        self.addresses().find(|(other, _)| *other == purpose).map(|(_, address)| address)
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

/// Puts callees before their callers and the gateway last. This is the order in which they are started, so that no
/// service logs a failure because a peer is not up yet.
pub fn in_start_order(mut waiting: Vec<Service>) -> Vec<Service> {
    let mut ordered = Vec::new();
    while !waiting.is_empty() {
        let is_waiting = |name: &str| waiting.iter().any(|service| service.name() == name);
        let is_next = |service: &Service| {
            !service.is_gateway()
                && !service.manifest.spec.calls.iter().any(|name| name != service.name() && is_waiting(name))
        };
        // In a cycle of calls the order does not matter.
        let next = waiting.iter().position(is_next).or(waiting.iter().position(|service| !service.is_gateway()));
        ordered.push(waiting.remove(next.unwrap_or(0)));
    }
    ordered
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::ports;

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
        in_start_order(ports::assign(manifests).unwrap()).into_iter().map(|service| service.manifest.name).collect()
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
}
