//! A role and a database for each service, on a server that may be shared.
//!
//! [`Server::ensure`] reads the current state, refuses what belongs to something else, runs the next batch of
//! statements and repeats until nothing is left to do. The admin need not be a superuser: on a managed server it has
//! `CREATEROLE` and `CREATEDB`. Supports Postgres 15 to 18.

mod admin_session;
mod error;
mod identifier;
mod owner;
mod plan;
mod schema;
mod server;
mod session;
mod spec;
mod state;
mod warnings;

pub use admin_session::{AdminSession, Claim};
pub use error::Error;
use identifier::Identifier;
pub use identifier::Invalid;
pub use owner::{Adoption, Owner};
pub use server::Server;
pub use spec::{DatabaseSpec, EnsureReport, RemoveReport, Warning};
use state::State;

impl Server {
    /// Creates or repairs the role, the database and its privileges. Writes nothing if both are as specified. It can be
    /// interrupted and repeated at any point.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn ensure(&self, spec: &DatabaseSpec) -> Result<EnsureReport, Error> {
        let mut admin = AdminSession::open(self, &spec.name).await?;
        let claim = admin.check(spec).await?;
        admin.ensure(spec, &claim).await
    }

    /// Drops the database and the role, even while clients are connected. What `owner` does not own is left alone.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn remove(&self, name: &str, owner: &Owner) -> Result<RemoveReport, Error> {
        AdminSession::open(self, name).await?.remove(owner).await
    }

    /// Logs in as the admin, reads what any other session of the admin reads, and logs out. Writes nothing.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn probe(&self) -> Result<(), Error> {
        let mut session = self.admin().await?;
        // This role exists, so each query has something to read.
        State::read(&mut session, &Identifier::new(self.admin_name())?).await?;
        session.close().await;
        Ok(())
    }
}
