//! A role and a database for each service, on a server that may be shared.
//!
//! [`Server::ensure`] reads the current state, refuses what belongs to something else, runs the next batch of
//! statements and repeats until nothing is left to do. The admin need not be a superuser: on a managed server it has
//! `CREATEROLE` and `CREATEDB`. Supports Postgres 15 to 18.

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

pub use error::Error;
pub use identifier::Invalid;
pub use owner::{Adoption, Owner};
pub use server::Server;
pub use spec::{DatabaseSpec, EnsureReport, RemoveReport, Warning};

use identifier::Identifier;
use session::{Session, Step};
use state::State;

impl Server {
    /// Creates or repairs the role, the database and its privileges. Writes nothing if both are as specified. It can be
    /// interrupted and repeated at any point.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn ensure(&self, spec: &DatabaseSpec) -> Result<EnsureReport, Error> {
        let name = Identifier::new(&spec.name)?;
        let mut admin = self.admin().await?;
        admin.lock(&name).await?;
        let mut changes = Vec::new();
        let plan = |state: &State| {
            plan::check_ownership(state, &name, &spec.owner, &spec.adoption)?;
            Ok(plan::toward(state, &name, spec))
        };
        let state = run_plan(&mut admin, &name, &mut changes, plan).await?;
        if let Some(session) = self.log_in_as(spec, &name, &mut admin, &mut changes).await? {
            schema::ensure(self, session, &name, &mut changes).await?;
        }
        let warnings = warnings::read(&mut admin, &state, spec).await?;
        admin.close().await;
        Ok(EnsureReport { changes, warnings })
    }

    /// Drops the database and the role, even while clients are connected. What `owner` does not own is left alone.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn remove(&self, name: &str, owner: &Owner) -> Result<RemoveReport, Error> {
        let name = Identifier::new(name)?;
        let mut admin = self.admin().await?;
        admin.lock(&name).await?;
        let mut changes = Vec::new();
        let plan = |state: &State| {
            plan::check_ownership(state, &name, owner, &Adoption::None)?;
            Ok(plan::removal(state, &name))
        };
        run_plan(&mut admin, &name, &mut changes, plan).await?;
        admin.close().await;
        Ok(RemoveReport { changes })
    }

    /// The schema version of a service: 0 for an empty database, the version of the last migration if `sqlx` runs them,
    /// and `None` if it is unknown.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn schema_version(&self, name: &str, password: &str) -> Result<Option<i64>, Error> {
        let mut session = self.log_in(name, password).await?;
        let version = schema::version(&mut session).await?;
        session.close().await;
        Ok(version)
    }

    /// Logs in as the role, which verifies its password, and sets the password if it is wrong. Returns `None` if all
    /// connections of the role are in use, possibly by the service itself.
    async fn log_in_as(
        &self,
        spec: &DatabaseSpec,
        name: &Identifier,
        admin: &mut Session,
        changes: &mut Vec<String>,
    ) -> Result<Option<Session>, Error> {
        match self.log_in(&spec.name, &spec.password).await {
            Err(Error::WrongPassword { .. }) => {}
            Err(Error::TooManyConnections { .. }) => return Ok(None),
            result => return result.map(Some),
        }
        let step = plan::set_password(name, &spec.password);
        admin.run(std::slice::from_ref(&step)).await?;
        changes.push(step.change());
        self.log_in(&spec.name, &spec.password).await.map(Some)
    }
}

/// Runs what `plan` returns, batch by batch, until it returns nothing.
async fn run_plan(
    admin: &mut Session,
    name: &Identifier,
    changes: &mut Vec<String>,
    plan: impl Fn(&State) -> Result<Vec<Step>, Error>,
) -> Result<State, Error> {
    loop {
        let state = State::read(admin, name).await?;
        let steps = plan(&state)?;
        if steps.is_empty() {
            return Ok(state);
        }
        if let Some(step) = steps.iter().find(|step| changes.contains(&step.change())) {
            let reason = "Postgres reported success but nothing changed".to_owned();
            return Err(Error::Sql { action: step.action(), reason });
        }
        admin.run(&steps).await?;
        changes.extend(steps.iter().map(Step::change));
    }
}
