//! What to do next, from what is there. Pure.
//!
//! The plans are asked again after each batch, so it does not matter what state an earlier attempt left. In between
//! nothing is ever there that the next attempt would take for somebody else's: the role is made with its mark, and
//! that the role owns it says whose the database is before its own mark does.

use postgres_protocol::password::scram_sha_256;

use super::{
    Mark, Wanted,
    identifier::{Identifier, literal, quote},
    session::LOCK_SEED,
    state::{Database, Role, State},
};

/// One statement.
#[derive(Debug, Clone)]
pub(super) struct Step {
    verb: Verb,
    what: String,
    pub(super) sql: String,
}

/// What is going to be done, and what was.
type Verb = (&'static str, &'static str);

const DROP: Verb = ("drop", "dropped");
const GIVE: Verb = ("give", "gave");
const MAKE: Verb = ("make", "made");
const MARK: Verb = ("mark", "marked");
const SET: Verb = ("set", "set");
const TAKE: Verb = ("take", "took");

impl Step {
    fn new(verb: Verb, what: String, sql: String) -> Self {
        Self { verb, what, sql }
    }

    /// For errors: "make the role x".
    pub(super) fn action(&self) -> String {
        format!("{} {}", self.verb.0, self.what)
    }

    /// For events: "made the role x".
    pub(super) fn done(&self) -> String {
        format!("{} {}", self.verb.1, self.what)
    }
}

/// The next statements, all of them or none, towards a role and a database as wanted; none when they are so.
pub(super) fn towards(state: &State, name: &Identifier, wanted: &Wanted) -> Vec<Step> {
    let Some(role) = &state.role else { return make_role(name, wanted) };
    let steps = mend_role(role, state, name, wanted);
    if !steps.is_empty() {
        return steps;
    }
    let steps = match &state.database {
        None => vec![make_database(name)],
        Some(database) if database.is_remains() => vec![drop_database(name)],
        Some(database) => mend_database(database, name, &wanted.mark),
    };
    if !steps.is_empty() {
        return steps;
    }
    state.open.iter().map(|database| close(database)).take(1).collect()
}

/// The next statements towards neither role nor database; none when both are gone.
pub(super) fn removal(state: &State, name: &Identifier) -> Vec<Step> {
    match (&state.database, &state.role) {
        (Some(_), Some(role)) if !role.obeys => vec![give_to_admin(state, name)],
        (Some(database), _) if database.is_in_service() => vec![Step::new(
            TAKE,
            format!("the database {name} out of service"),
            format!("ALTER DATABASE {name} WITH ALLOW_CONNECTIONS false IS_TEMPLATE false"),
        )],
        (Some(_), _) => vec![drop_database(name)],
        (None, Some(_)) => vec![Step::new(DROP, format!("the role {name}"), format!("DROP ROLE {name}"))],
        (None, None) => vec![],
    }
}

/// A new password for the role. The server gets its SCRAM verifier only, as it may write statements to its log.
pub(super) fn renew_password(name: &Identifier, password: &str) -> Step {
    let sql = format!("ALTER ROLE {name} PASSWORD {}", verifier(password));
    Step::new(SET, format!("the password of the role {name}"), sql)
}

/// The schema `public` belongs to the role, and to nobody else.
pub(super) fn mend_schema(name: &Identifier) -> Vec<Step> {
    vec![
        Step::new(
            GIVE,
            format!("the schema public to the role {name}"),
            format!("ALTER SCHEMA public OWNER TO {name}"),
        ),
        Step::new(
            TAKE,
            format!("the schema public of the database {name} from everyone else"),
            "REVOKE ALL ON SCHEMA public FROM PUBLIC".to_owned(),
        ),
    ]
}

fn make_role(name: &Identifier, wanted: &Wanted) -> Vec<Step> {
    let (limit, verifier) = (wanted.connection_limit, verifier(&wanted.password));
    let sql = format!("CREATE ROLE {name} LOGIN CONNECTION LIMIT {limit} PASSWORD {verifier}");
    vec![Step::new(MAKE, format!("the role {name}"), sql), mark("ROLE", "role", name, &wanted.mark)]
}

fn mend_role(role: &Role, state: &State, name: &Identifier, wanted: &Wanted) -> Vec<Step> {
    let mut steps = Vec::new();
    if role.comment.as_deref() != Some(&*wanted.mark.to_string()) {
        steps.push(mark("ROLE", "role", name, &wanted.mark));
    }
    // Only what is wrong is named: an admin who is no superuser may not say so much as NOSUPERUSER.
    let limit = format!("CONNECTION LIMIT {}", wanted.connection_limit);
    let clauses = [
        (role.superuser, "NOSUPERUSER"),
        (role.creates_databases, "NOCREATEDB"),
        (role.creates_roles, "NOCREATEROLE"),
        (role.replicates, "NOREPLICATION"),
        (role.bypasses_rls, "NOBYPASSRLS"),
        (!role.logs_in, "LOGIN"),
        (role.expires, "VALID UNTIL 'infinity'"),
        (role.connection_limit != wanted.connection_limit, &limit),
    ];
    let clauses: Vec<&str> = clauses.into_iter().filter_map(|(wrong, clause)| wrong.then_some(clause)).collect();
    if !clauses.is_empty() {
        let clauses = clauses.join(" ");
        let sql = format!("ALTER ROLE {name} WITH {clauses}");
        steps.push(Step::new(SET, format!("the role {name} to {clauses}"), sql));
    }
    for membership in role.memberships.iter().filter(|membership| membership.revocable) {
        // Since Postgres 16 each grantor's grant is one of its own.
        let group = quote(&membership.role);
        let by = if state.admin.version < 16_00_00 {
            String::new()
        } else {
            format!(" GRANTED BY {}", quote(&membership.grantor))
        };
        let sql = format!("REVOKE {group} FROM {name}{by} CASCADE");
        steps.push(Step::new(TAKE, format!("the role {name} out of {group}"), sql));
    }
    if !role.obeys {
        steps.push(give_to_admin(state, name));
    }
    steps
}

/// An admin who is no superuser needs the privileges of the role, to give a database to it and to look after that.
fn give_to_admin(state: &State, name: &Identifier) -> Step {
    let options = if state.admin.version < 16_00_00 { "" } else { " WITH INHERIT TRUE, SET TRUE" };
    let sql = format!("GRANT {name} TO CURRENT_USER{options}");
    Step::new(GIVE, format!("the role {name} to the admin"), sql)
}

/// From the empty template, to which nobody can be connected; closed until everyone's privileges are revoked.
fn make_database(name: &Identifier) -> Step {
    let sql = format!("CREATE DATABASE {name} OWNER {name} TEMPLATE template0 ENCODING 'UTF8' ALLOW_CONNECTIONS false");
    Step::new(MAKE, format!("the database {name}"), sql)
}

fn mend_database(database: &Database, name: &Identifier, mark: &Mark) -> Vec<Step> {
    let mut steps = Vec::new();
    if database.owner != name.raw() {
        let sql = format!("ALTER DATABASE {name} OWNER TO {name}");
        steps.push(Step::new(GIVE, format!("the database {name} to its role"), sql));
    }
    if database.comment.as_deref() != Some(&*mark.to_string()) {
        steps.push(self::mark("DATABASE", "database", name, mark));
    }
    if database.is_public {
        let sql = format!("REVOKE ALL ON DATABASE {name} FROM PUBLIC");
        steps.push(Step::new(TAKE, format!("the database {name} from everyone else"), sql));
    }
    if !database.is_owners {
        let sql = format!("GRANT ALL ON DATABASE {name} TO {name}");
        steps.push(Step::new(GIVE, format!("all privileges on the database {name} to its role"), sql));
    }
    if !database.takes_connections || database.is_template || database.connection_limit != -1 {
        let sql = format!("ALTER DATABASE {name} WITH ALLOW_CONNECTIONS true IS_TEMPLATE false CONNECTION LIMIT -1");
        steps.push(Step::new(SET, format!("the database {name} to take connections"), sql));
    }
    steps
}

fn drop_database(name: &Identifier) -> Step {
    Step::new(DROP, format!("the database {name}"), format!("DROP DATABASE {name} WITH (FORCE)"))
}

/// One statement as far as Postgres is concerned, and so one transaction. Two at a time would fail with "tuple concurrently updated".
fn close(database: &str) -> Step {
    let database = quote(database);
    let lock = format!("SELECT pg_advisory_xact_lock(hashtextextended('', {LOCK_SEED}))");
    let sql = format!("{lock}; REVOKE CONNECT ON DATABASE {database} FROM PUBLIC");
    Step::new(TAKE, format!("the database {database} from everyone else"), sql)
}

/// `kind` as the statement has it, `noun` as a reader.
fn mark(kind: &str, noun: &str, name: &Identifier, mark: &Mark) -> Step {
    let sql = format!("COMMENT ON {kind} {name} IS {}", literal(&mark.to_string()));
    Step::new(MARK, format!("the {noun} {name}"), sql)
}

fn verifier(password: &str) -> String {
    literal(&scram_sha_256(password.as_bytes()))
}
