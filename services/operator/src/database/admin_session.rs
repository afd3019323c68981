//! A session of the admin, at work on one role and its database.

use sqlx::query_as;

use super::{
    error::Error,
    identifier::Identifier,
    owner::{Adoption, Owner},
    plan, schema,
    server::Server,
    session::{Session, Step},
    spec::{DatabaseSpec, EnsureReport, RemoveReport, Warning},
    state::State,
    warnings,
};

/// Every role may call this function unless an administrator has revoked that.
const SYSTEM_IDENTIFIER: &str = "SELECT system_identifier::text FROM pg_control_system()";

/// Ends the sessions of a role that have been idle the longest, if it has no free connection.
const END_IDLE_SESSIONS: &str = "
    SELECT pg_terminate_backend(pid) FROM (
        SELECT pid FROM pg_stat_activity
        WHERE usename = $1 AND state LIKE 'idle%'
          AND (SELECT count(*) FROM pg_stat_activity WHERE usename = $1)
              >= (SELECT rolconnlimit FROM pg_roles WHERE rolname = $1 AND rolconnlimit > 0)
        ORDER BY state_change
        LIMIT $2
    ) AS idle";

/// A session of the admin. It holds the lock of a name, in case another operator works on it.
pub struct AdminSession<'a> {
    server: &'a Server,
    session: Session,
    name: Identifier,
    system_identifier: Option<String>,
}

/// A role and a database that an object may have.
pub struct Claim {
    adoption: Adoption,
    exists: bool,
}

impl Claim {
    /// Whether the role or the database exists already.
    #[must_use]
    pub fn exists(&self) -> bool {
        self.exists
    }
}

impl<'a> AdminSession<'a> {
    /// Logs in, locks the name, and reads which server this is. Writes nothing.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn open(server: &'a Server, name: &str) -> Result<Self, Error> {
        let name = Identifier::new(name)?;
        let mut session = server.admin().await?;
        session.lock(&name).await?;
        let system_identifier = match session.read_one(query_as(SYSTEM_IDENTIFIER)).await {
            Ok((identifier,)) => Some(identifier),
            Err(Error::PrivilegeMissing { .. } | Error::Sql { .. }) => None,
            Err(error) => return Err(error),
        };
        Ok(Self { server, session, name, system_identifier })
    }

    /// The identifier that `initdb` gave the server, which its physical copies share; `None` if the admin may not read
    /// it.
    #[must_use]
    pub fn system_identifier(&self) -> Option<&str> {
        self.system_identifier.as_deref()
    }

    /// Checks that neither the role nor the database belongs to something else, without writing anything.
    ///
    /// An ownership comment of the first versions names no cluster, so an object of the same name in any cluster fits
    /// it. Such a comment is taken over only by an object that knows the password of the role.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn check(&mut self, spec: &DatabaseSpec) -> Result<Claim, Error> {
        let state = State::read(&mut self.session, &self.name).await?;
        let exists = state.role.is_some() || state.database.is_some();
        let refused = match plan::check_ownership(&state, &self.name, &spec.owner, &spec.adoption) {
            Ok(()) => return Ok(Claim { adoption: spec.adoption.clone(), exists }),
            Err(refused) => refused,
        };
        if let Error::OwnedByOther { owner, .. } = &refused
            && **owner == spec.owner.without_cluster()
            && self.knows_password(spec).await?
        {
            let adoption = Adoption::OwnedBy(Owner::clone(owner));
            return plan::check_ownership(&state, &self.name, &spec.owner, &adoption)
                .map(|()| Claim { adoption, exists });
        }
        Err(refused)
    }

    /// See [`Server::ensure`].
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn ensure(mut self, spec: &DatabaseSpec, claim: &Claim) -> Result<EnsureReport, Error> {
        let mut changes = Vec::new();
        let plan = |state: &State, name: &Identifier| {
            plan::check_ownership(state, name, &spec.owner, &claim.adoption)?;
            Ok(plan::toward(state, name, spec))
        };
        let state = self.run_plan(&mut changes, plan).await?;
        let session = self.log_in_as(spec, &mut changes).await?;
        let is_exhausted = session.is_none();
        let schema_version = match session {
            Some(session) => schema::ensure(self.server, session, &self.name, &mut changes).await?,
            None => None,
        };
        let mut warnings = warnings::read(&mut self.session, &state, spec).await?;
        if is_exhausted {
            warnings.push(Warning::Exhausted);
        }
        if self.system_identifier.is_none() {
            warnings.push(Warning::UnknownServer);
        }
        self.session.close().await;
        Ok(EnsureReport { changes, schema_version, warnings })
    }

    /// Ends up to `count` idle sessions of the role, those that have been idle the longest, if all of its connections are
    /// in use. Returns how many.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn end_idle_sessions(mut self, count: i64) -> Result<usize, Error> {
        let query = query_as(END_IDLE_SESSIONS).bind(self.name.raw().to_owned()).bind(count);
        let ended: Vec<(bool,)> = self.session.read(query).await?;
        self.session.close().await;
        Ok(ended.into_iter().filter(|(ended,)| *ended).count())
    }

    /// See [`Server::remove`].
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn remove(mut self, owner: &Owner) -> Result<RemoveReport, Error> {
        let mut changes = Vec::new();
        let plan = |state: &State, name: &Identifier| {
            plan::check_ownership(state, name, owner, &Adoption::None)?;
            Ok(plan::removal(state, name))
        };
        self.run_plan(&mut changes, plan).await?;
        self.session.close().await;
        Ok(RemoveReport { changes })
    }

    /// Whether the server accepts the password of `spec` for the role.
    async fn knows_password(&self, spec: &DatabaseSpec) -> Result<bool, Error> {
        match self.server.log_in(&spec.name, &spec.password).await {
            Ok(session) => session.close().await,
            Err(Error::WrongPassword { .. } | Error::Login { .. }) => return Ok(false),
            // Postgres verifies the password before it looks for the database.
            Err(Error::PrivilegeMissing { .. } | Error::Sql { .. }) => {}
            Err(error) => return Err(error),
        }
        Ok(true)
    }

    /// Logs in as the role, which verifies its password, and sets the password if it is wrong. Returns `None` if all
    /// connections of the role are in use, possibly by the service itself.
    async fn log_in_as(&mut self, spec: &DatabaseSpec, changes: &mut Vec<String>) -> Result<Option<Session>, Error> {
        match self.server.log_in(&spec.name, &spec.password).await {
            Err(Error::WrongPassword { .. }) => {}
            Err(Error::TooManyConnections { .. }) => return Ok(None),
            result => return result.map(Some),
        }
        let step = plan::set_password(&self.name, &spec.password);
        self.session.run(std::slice::from_ref(&step)).await?;
        changes.push(step.change());
        self.server.log_in(&spec.name, &spec.password).await.map(Some)
    }

    /// Runs what `plan` returns, batch by batch, until it returns nothing.
    async fn run_plan(
        &mut self,
        changes: &mut Vec<String>,
        plan: impl Fn(&State, &Identifier) -> Result<Vec<Step>, Error>,
    ) -> Result<State, Error> {
        loop {
            let state = State::read(&mut self.session, &self.name).await?;
            let steps = plan(&state, &self.name)?;
            if steps.is_empty() {
                return Ok(state);
            }
            if let Some(step) = steps.iter().find(|step| changes.contains(&step.change())) {
                let reason = "Postgres reported success but nothing changed".to_owned();
                return Err(Error::Sql { action: step.action(), reason });
            }
            self.session.run(&steps).await?;
            changes.extend(steps.iter().map(Step::change));
        }
    }
}
