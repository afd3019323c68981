//! Checks that the current state permits a change, and plans the next statements. Pure.
//!
//! The plan is made anew after each batch, so it does not matter what an earlier attempt left behind. At no point does
//! the next attempt find anything that looks like another owner's: the role is created together with its ownership
//! comment, and the role owns the database before the database has an ownership comment of its own.

use postgres_protocol::password::scram_sha_256;

use super::{
    error::{Error, OTHER_NAME},
    identifier::{Identifier, literal, quote},
    owner::{Adoption, Owner, Ownership, UNMARKED},
    session::{CREATE, DROP, GRANT, LOCK_SEED, REVOKE, SET, Step},
    spec::DatabaseSpec,
    state::{Database, Role, State},
};
use api::annotations::ADOPT;

/// The databases of every server.
const RESERVED: [&str; 3] = ["postgres", "template0", "template1"];

/// Checks that neither the role nor the database of that name belongs to something else.
///
/// If the role owns the database, one ownership comment is enough: the other one may not have been written yet, or may
/// have been lost.
pub(super) fn check_ownership(
    state: &State,
    name: &Identifier,
    owner: &Owner,
    adoption: &Adoption,
) -> Result<(), Error> {
    if RESERVED.contains(&name.raw()) || name.raw() == state.admin.name || name.raw() == state.admin.home {
        return Err(Error::NotOwned(format!("the name {name} is reserved by the server: {OTHER_NAME}")));
    }
    let ownership = |comment: &Option<String>| Ownership::read(comment.as_deref(), owner, adoption);
    let role = state.role.as_ref().map(|role| ownership(&role.comment));
    let database = state.database.as_ref().map(|database| ownership(&database.comment));

    if state.role.as_ref().is_some_and(|role| role.superuser) && role != Some(Ownership::Owned) {
        return Err(Error::NotOwned(format!("the role {name} is a superuser: {OTHER_NAME}")));
    }
    let role_owns_database = state.database.as_ref().is_some_and(|database| database.owner == name.raw());
    let adopt = |from: &str| {
        let entry = owner.adoption_entry(name.raw());
        format!(
            "adopt it: set the annotation {ADOPT} to `{from}`, and list {entry} under `adopt` in the Secret of the server"
        )
    };
    let proven = role_owns_database && (role == Some(Ownership::Owned) || database == Some(Ownership::Owned));
    for (ownership, what) in [(role, "role"), (database, "database")] {
        match ownership {
            Some(Ownership::Unowned) if !proven => {
                return Err(Error::NotOwned(format!(
                    "the {what} {name} was not created by Hedgerow: drop it, {OTHER_NAME}, or {}",
                    adopt(UNMARKED)
                )));
            }
            Some(Ownership::Other(owner)) => {
                let adopt = adopt(&owner.to_string());
                return Err(Error::OwnedByOther { what: format!("the {what} {name}"), owner: Box::new(owner), adopt });
            }
            _ => {}
        }
    }
    Ok(())
}

/// The next batch of statements toward the specified role and database; empty when both are as specified.
pub(super) fn toward(state: &State, name: &Identifier, spec: &DatabaseSpec) -> Vec<Step> {
    let Some(role) = &state.role else { return create_role(name, spec) };
    let steps = repair_role(role, state, name, spec);
    if !steps.is_empty() {
        return steps;
    }
    let steps = match &state.database {
        None => vec![create_database(name)],
        Some(database) if database.is_invalid() => vec![drop_database(name)],
        Some(database) => repair_database(database, name, &spec.owner),
    };
    if !steps.is_empty() {
        return steps;
    }
    state.open.iter().map(|database| revoke_connect(database)).take(1).collect()
}

/// The next batch of statements that removes role and database; empty when both are gone.
pub(super) fn removal(state: &State, name: &Identifier) -> Vec<Step> {
    match (&state.database, &state.role) {
        (Some(_), Some(role)) if !role.usable_by_admin => vec![grant_to_admin(state, name)],
        (Some(database), _) if database.accepts_clients() => vec![Step::new(
            SET,
            format!("database {name} to refuse connections"),
            format!("ALTER DATABASE {name} WITH ALLOW_CONNECTIONS false IS_TEMPLATE false"),
        )],
        (Some(_), _) => vec![drop_database(name)],
        (None, Some(_)) => vec![Step::new(DROP, format!("role {name}"), format!("DROP ROLE {name}"))],
        (None, None) => vec![],
    }
}

/// Sets the password of the role. Only the SCRAM verifier is sent, because the server may log statements.
pub(super) fn set_password(name: &Identifier, password: &str) -> Step {
    let sql = format!("ALTER ROLE {name} PASSWORD {}", verifier(password));
    Step::new(SET, format!("the password of role {name}"), sql)
}

/// Makes the role the only owner of the schema `public`.
pub(super) fn repair_schema(name: &Identifier) -> Vec<Step> {
    vec![
        Step::new(SET, format!("the owner of schema public to {name}"), format!("ALTER SCHEMA public OWNER TO {name}")),
        Step::new(
            REVOKE,
            format!("all privileges on schema public of database {name} from PUBLIC"),
            "REVOKE ALL ON SCHEMA public FROM PUBLIC".to_owned(),
        ),
    ]
}

fn create_role(name: &Identifier, spec: &DatabaseSpec) -> Vec<Step> {
    let (limit, verifier) = (spec.connection_limit, verifier(&spec.password));
    let sql = format!("CREATE ROLE {name} LOGIN CONNECTION LIMIT {limit} PASSWORD {verifier}");
    vec![Step::new(CREATE, format!("role {name}"), sql), comment("ROLE", "role", name, &spec.owner)]
}

fn repair_role(role: &Role, state: &State, name: &Identifier, spec: &DatabaseSpec) -> Vec<Step> {
    let mut steps = Vec::new();
    if role.comment.as_deref() != Some(&*spec.owner.to_string()) {
        steps.push(comment("ROLE", "role", name, &spec.owner));
    }
    // Name only what differs: even NOSUPERUSER is refused to an admin who is not a superuser.
    let limit = format!("CONNECTION LIMIT {}", spec.connection_limit);
    let clauses = [
        (role.superuser, "NOSUPERUSER"),
        (role.creates_databases, "NOCREATEDB"),
        (role.creates_roles, "NOCREATEROLE"),
        (role.replicates, "NOREPLICATION"),
        (role.bypasses_rls, "NOBYPASSRLS"),
        (!role.logs_in, "LOGIN"),
        (role.expires, "VALID UNTIL 'infinity'"),
        (role.connection_limit != spec.connection_limit, &limit),
    ];
    let clauses: Vec<&str> = clauses.into_iter().filter_map(|(wrong, clause)| wrong.then_some(clause)).collect();
    if !clauses.is_empty() {
        let clauses = clauses.join(" ");
        let sql = format!("ALTER ROLE {name} WITH {clauses}");
        steps.push(Step::new(SET, format!("role {name} to {clauses}"), sql));
    }
    for membership in role.memberships.iter().filter(|membership| membership.revocable) {
        // Since Postgres 16, each grantor has a grant of its own.
        let group = quote(&membership.role);
        let by = if state.admin.version < 16_00_00 {
            String::new()
        } else {
            format!(" GRANTED BY {}", quote(&membership.grantor))
        };
        let sql = format!("REVOKE {group} FROM {name}{by} CASCADE");
        steps.push(Step::new(REVOKE, format!("membership of role {name} in {group}"), sql));
    }
    if !role.usable_by_admin {
        steps.push(grant_to_admin(state, name));
    }
    steps
}

/// An admin who is not a superuser needs the privileges of the role to create and maintain a database that it owns.
fn grant_to_admin(state: &State, name: &Identifier) -> Step {
    let options = if state.admin.version < 16_00_00 { "" } else { " WITH INHERIT TRUE, SET TRUE" };
    let sql = format!("GRANT {name} TO CURRENT_USER{options}");
    Step::new(GRANT, format!("role {name} to the admin"), sql)
}

/// Uses `template0`, to which nobody can be connected. The database refuses connections until the privileges of
/// `PUBLIC` are revoked.
fn create_database(name: &Identifier) -> Step {
    let sql = format!("CREATE DATABASE {name} OWNER {name} TEMPLATE template0 ENCODING 'UTF8' ALLOW_CONNECTIONS false");
    Step::new(CREATE, format!("database {name}"), sql)
}

fn repair_database(database: &Database, name: &Identifier, owner: &Owner) -> Vec<Step> {
    let mut steps = Vec::new();
    if database.owner != name.raw() {
        let sql = format!("ALTER DATABASE {name} OWNER TO {name}");
        steps.push(Step::new(SET, format!("the owner of database {name} to its role"), sql));
    }
    if database.comment.as_deref() != Some(&*owner.to_string()) {
        steps.push(comment("DATABASE", "database", name, owner));
    }
    if database.is_public {
        let sql = format!("REVOKE ALL ON DATABASE {name} FROM PUBLIC");
        steps.push(Step::new(REVOKE, format!("all privileges on database {name} from PUBLIC"), sql));
    }
    if !database.is_owners {
        let sql = format!("GRANT ALL ON DATABASE {name} TO {name}");
        steps.push(Step::new(GRANT, format!("all privileges on database {name} to its role"), sql));
    }
    if !database.takes_connections || database.is_template || database.connection_limit != -1 {
        let sql = format!("ALTER DATABASE {name} WITH ALLOW_CONNECTIONS true IS_TEMPLATE false CONNECTION LIMIT -1");
        steps.push(Step::new(SET, format!("database {name} to allow connections"), sql));
    }
    steps
}

fn drop_database(name: &Identifier) -> Step {
    Step::new(DROP, format!("database {name}"), format!("DROP DATABASE {name} WITH (FORCE)"))
}

/// Sent as one simple query and so one transaction: the lock prevents "tuple concurrently updated" when two operators
/// do this at the same time.
fn revoke_connect(database: &str) -> Step {
    let database = quote(database);
    let lock = format!("SELECT pg_advisory_xact_lock(hashtextextended('', {LOCK_SEED}))");
    let sql = format!("{lock}; REVOKE CONNECT ON DATABASE {database} FROM PUBLIC");
    Step::new(REVOKE, format!("CONNECT on database {database} from PUBLIC"), sql)
}

/// Writes the ownership comment. `kind` is for the statement, `noun` for the description.
fn comment(kind: &str, noun: &str, name: &Identifier, owner: &Owner) -> Step {
    let sql = format!("COMMENT ON {kind} {name} IS {}", literal(&owner.to_string()));
    Step::new(SET, format!("the ownership comment of {noun} {name}"), sql)
}

fn verifier(password: &str) -> String {
    literal(&scram_sha_256(password.as_bytes()))
}
