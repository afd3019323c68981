//! A role and a database for each service, on a server that others may use too.
//!
//! Read what is there, refuse what is somebody else's, do the next thing, read again: until nothing is left to do.
//! The admin need not be a superuser: on a managed server it has `CREATEROLE` and `CREATEDB`. Postgres 15 to 18.

mod claim;
mod error;
mod identifier;
mod mark;
mod outlook;
mod plan;
mod schema;
mod server;
mod session;
mod state;

use std::fmt;

pub use error::{Error, Invalid};
pub use mark::{Adopt, Mark};
pub use outlook::Warning;
pub use server::Server;

use identifier::Identifier;
use plan::Step;
use session::Session;
use state::State;

/// What a service needs: a role and a database of the same name.
#[derive(Clone)]
pub struct Wanted {
    /// The name of both.
    pub name: String,
    /// Whose they are.
    pub mark: Mark,
    /// The role's password; shown nowhere.
    pub password: String,
    /// The most connections of the role; -1 for any number.
    pub connection_limit: i32,
    /// What may be taken over.
    pub adopt: Adopt,
}

impl fmt::Debug for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Wanted({:?}, {})", self.name, self.mark)
    }
}

/// All is as wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ensured {
    /// What had to be done, such as "made the role x"; empty when all was well.
    pub done: Vec<String>,
    /// What may turn out badly.
    pub warnings: Vec<Warning>,
}

/// Nothing is left.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Removed {
    /// What had to be done; empty when nothing was there.
    pub done: Vec<String>,
}

impl Server {
    /// Makes or repairs the role, the database and who may open it. Writes nothing when all is well, and can be
    /// interrupted and repeated at any point.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn ensure(&self, wanted: &Wanted) -> Result<Ensured, Error> {
        let name = Identifier::new(&wanted.name)?;
        let mut admin = self.admin().await?;
        admin.lock(&name).await?;
        let mut done = Vec::new();
        let plan = |state: &State| {
            claim::check(state, &name, &wanted.mark, &wanted.adopt)?;
            Ok(plan::towards(state, &name, wanted))
        };
        let state = carry_out(&mut admin, &name, &mut done, plan).await?;
        if let Some(own) = self.log_in_as(wanted, &name, &mut admin, &mut done).await? {
            schema::ensure(self, own, &name, &mut done).await?;
        }
        let warnings = outlook::look(&mut admin, &state, wanted).await?;
        admin.close().await;
        Ok(Ensured { done, warnings })
    }

    /// Drops database and role, while clients are connected too; what does not carry the mark is left alone.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn remove(&self, name: &str, mark: &Mark) -> Result<Removed, Error> {
        let name = Identifier::new(name)?;
        let mut admin = self.admin().await?;
        admin.lock(&name).await?;
        let mut done = Vec::new();
        let plan = |state: &State| {
            claim::check(state, &name, mark, &Adopt::Nothing)?;
            Ok(plan::removal(state, &name))
        };
        carry_out(&mut admin, &name, &mut done, plan).await?;
        admin.close().await;
        Ok(Removed { done })
    }

    /// The version of a service's schema: 0 where there is nothing yet, that of the last migration where `sqlx` made
    /// it, none where it cannot be told.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn schema_version(&self, name: &str, password: &str) -> Result<Option<i64>, Error> {
        let mut own = self.log_in(name, password).await?;
        let version = schema::version(&mut own).await?;
        own.close().await;
        Ok(version)
    }

    /// Logs in as the role, which shows that its password is the wanted one; if it is not, it is set.
    /// None when all connections are taken: the service itself may have them.
    async fn log_in_as(
        &self,
        wanted: &Wanted,
        name: &Identifier,
        admin: &mut Session,
        done: &mut Vec<String>,
    ) -> Result<Option<Session>, Error> {
        match self.log_in(&wanted.name, &wanted.password).await {
            Err(Error::WrongPassword { .. }) => {}
            Err(Error::TooManyConnections { .. }) => return Ok(None),
            own => return own.map(Some),
        }
        let step = plan::renew_password(name, &wanted.password);
        admin.run(std::slice::from_ref(&step)).await?;
        done.push(step.done());
        self.log_in(&wanted.name, &wanted.password).await.map(Some)
    }
}

/// Does what `plan` says, batch by batch, until it says nothing.
async fn carry_out(
    admin: &mut Session,
    name: &Identifier,
    done: &mut Vec<String>,
    plan: impl Fn(&State) -> Result<Vec<Step>, Error>,
) -> Result<State, Error> {
    loop {
        let state = State::read(admin, name).await?;
        let steps = plan(&state)?;
        if steps.is_empty() {
            return Ok(state);
        }
        if let Some(step) = steps.iter().find(|step| done.contains(&step.done())) {
            let reason = "Postgres says that it did, and it is not so".to_owned();
            return Err(Error::Sql { action: step.action(), reason });
        }
        admin.run(&steps).await?;
        done.extend(steps.iter().map(Step::done));
    }
}
