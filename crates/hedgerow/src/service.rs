//! The table of services: one more is one more row.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// What is fixed about a service.
#[derive(Debug)]
pub struct Row {
    /// The name of its program, its role and its database.
    pub name: &'static str,
    /// Where it serves requests, unless told otherwise.
    pub http: SocketAddr,
    /// Where it serves gRPC, if it does, unless told otherwise.
    pub grpc: Option<SocketAddr>,
    /// Where it serves health and metrics, unless told otherwise.
    pub admin: SocketAddr,
    /// The services that it calls over gRPC.
    pub peers: &'static [&'static str],
    /// The path prefixes that the gateway passes on to it.
    pub paths: &'static [&'static str],
    /// First requests to try: path and, for a POST, body.
    pub examples: &'static [(&'static str, Option<&'static str>)],
}

/// The name of the row that all others are reached through. It has no database.
pub const GATEWAY: &str = "gateway";

/// Every service, in the order they are started: the gateway once there is something behind it.
pub const ROWS: &[Row] = &[
    Row {
        name: "users",
        http: local(8081),
        grpc: None,
        admin: local(9091),
        peers: &["inventory"],
        paths: &["/users"],
        examples: &[
            ("/users", Some(r#"{"name":"Ada","email":"ada@example.com","wishlist":["product_123"]}"#)),
            ("/users", None),
        ],
    },
    Row {
        name: "inventory",
        http: local(8082),
        grpc: Some(local(50052)),
        admin: local(9092),
        peers: &[],
        paths: &["/inventory", "/reservations"],
        examples: &[("/inventory/product_123", Some(r#"{"stock": 42}"#)), ("/inventory/product_123", None)],
    },
    Row { name: GATEWAY, http: local(8080), grpc: None, admin: local(9093), peers: &[], paths: &[], examples: &[] },
];

impl Row {
    /// Whether it is the one that requests come in through.
    pub fn is_gateway(&self) -> bool {
        self.name == GATEWAY
    }

    /// The flag for where it serves requests, without the dashes before.
    pub fn http_flag(&self) -> String {
        format!("{}-addr", self.name)
    }

    /// The flag for where it serves gRPC, without the dashes before.
    pub fn grpc_flag(&self) -> String {
        format!("{}-grpc-addr", self.name)
    }

    /// The flag for where it serves health and metrics, without the dashes before.
    pub fn admin_flag(&self) -> String {
        format!("{}-admin-addr", self.name)
    }
}

/// A service with the addresses it got.
#[derive(Clone, Debug)]
pub struct Service {
    pub row: &'static Row,
    pub http: SocketAddr,
    pub grpc: Option<SocketAddr>,
    pub admin: SocketAddr,
}

impl Service {
    /// Each address it listens on, with its flag.
    pub fn addresses(&self) -> impl Iterator<Item = (SocketAddr, String)> {
        let grpc = self.grpc.map(|address| (address, self.row.grpc_flag()));
        let (http, admin) = ((self.http, self.row.http_flag()), (self.admin, self.row.admin_flag()));
        [Some(http), grpc, Some(admin)].into_iter().flatten()
    }
}

const fn local(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

/// Where a client on this machine finds what listens on `address`.
pub fn reachable(mut address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    address
}
