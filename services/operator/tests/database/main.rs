//! Roles and databases on a real Postgres, one module a theme. The admin is no superuser unless a test says so.

mod claims;
mod crashes;
mod isolation;
mod making;
mod postgres;
mod proxy;
mod reach;
mod removal;
mod repair;
mod secrets;

use operator::database::{Adopt, Ensured, Mark, Server, Wanted};

/// What a service gets from `ensure`.
const PASSWORD: &str = "correct-horse-battery";

/// An object of the installation `here`, in the namespace `shop`.
fn mark(name: &str) -> Mark {
    Mark::new("here", "shop", name).unwrap()
}

fn wanted(name: &str) -> Wanted {
    Wanted {
        name: name.to_owned(),
        mark: mark(name),
        password: PASSWORD.to_owned(),
        connection_limit: 20,
        adopt: Adopt::Nothing,
    }
}

/// Ensures what must succeed.
async fn ensure(server: &Server, wanted: &Wanted) -> Ensured {
    server.ensure(wanted).await.unwrap()
}

/// What was done at a time when nothing should be left to do.
async fn left_to_do(server: &Server, wanted: &Wanted) -> Vec<String> {
    ensure(server, wanted).await.done
}
