//! Which `Microservice` objects are accepted and which are refused, rule by rule. The tables are checked twice: against
//! the `api` crate without a cluster, and against a real API server. Both must agree.

#![expect(clippy::must_use_candidate, reason = "a table that nobody checks is useless anyway")]

mod case;
mod database;
mod network;
mod object;
mod pods;

pub use self::{
    case::Case,
    database::{connections, database, permanence},
    network::{allow_from, auth, calls, route, unknown_auth},
    object::{fields, name},
    pods::{env, image, ports, resources, scaling},
};

/// All tables in which the API server agrees.
pub fn all() -> Vec<Case> {
    let tables = [
        name,
        image,
        fields,
        ports,
        env,
        calls,
        resources,
        database,
        connections,
        permanence,
        scaling,
        route,
        auth,
        allow_from,
    ];
    tables.into_iter().flat_map(|table| table()).collect()
}
