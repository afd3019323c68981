//! Roles and databases on a real Postgres, one module per topic. The admin is not a superuser unless a test says so.

mod connection;
mod crashes;
mod creation;
mod identity;
mod isolation;
mod ownership;

mod postgres;
mod proxy;

mod removal;
mod repair;
mod secrets;

use operator::database::{Adoption, DatabaseSpec, EnsureReport, Owner, Server};

/// The password of every service role.
const PASSWORD: &str = "correct-horse-battery";

/// The owner `shop/NAME` of the installation `here` in the cluster `home`.
fn owner(name: &str) -> Owner {
    Owner::new("home", "here", "shop", name).unwrap()
}

fn spec(name: &str) -> DatabaseSpec {
    DatabaseSpec {
        name: name.to_owned(),
        owner: owner(name),
        password: PASSWORD.to_owned(),
        connection_limit: 20,
        adoption: Adoption::None,
    }
}

/// Calls `ensure`, which must succeed.
async fn ensure(server: &Server, spec: &DatabaseSpec) -> EnsureReport {
    server.ensure(spec).await.unwrap()
}

/// What `ensure` changes.
async fn changes(server: &Server, spec: &DatabaseSpec) -> Vec<String> {
    ensure(server, spec).await.changes
}
