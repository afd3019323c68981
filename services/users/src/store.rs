//! All SQL of users.

pub(crate) mod client;
pub(crate) mod credential;
pub(crate) mod key;
pub(crate) mod revoked;
pub(crate) mod role;
pub(crate) mod session;
pub(crate) mod throttle;
pub(crate) mod wishlist;

use chassis::Preconditions;
use sqlx::{Acquire, PgConnection};
use uuid::Uuid;

use crate::model::{Email, Name, NewUser, User, UserId, Wishes};

/// Makes the current transaction hardly wait for locks.
pub(crate) async fn hardly_wait(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query!("SELECT set_config('lock_timeout', '10ms', true)").fetch_one(connection).await?;
    Ok(())
}

/// Inserts new users with their wishlists. Returns those whose email was not taken.
pub(crate) async fn insert(
    connection: &mut PgConnection,
    users: &[(Uuid, &NewUser)],
) -> Result<Vec<User>, sqlx::Error> {
    let ids: Vec<Uuid> = users.iter().map(|(id, _)| *id).collect();
    let names: Vec<&str> = users.iter().map(|(_, user)| user.name.as_str()).collect();
    let emails: Vec<&str> = users.iter().map(|(_, user)| user.email.as_str()).collect();
    let wishes = users.iter().flat_map(|(id, user)| {
        let product_ids = user.wishlist.iter().flat_map(Wishes::product_ids);
        product_ids.map(|product_id| (*id, product_id.as_str()))
    });
    let (owners, product_ids): (Vec<Uuid>, Vec<&str>) = wishes.unzip();
    sqlx::query_as!(
        User,
        r#"WITH created AS (
               INSERT INTO users (id, name, email) SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[])
               ON CONFLICT DO NOTHING
               RETURNING id, name, email, created_at, updated_at, version
           ), wished AS (
               INSERT INTO wishlist (user_id, product_id)
               SELECT user_id, product_id FROM unnest($4::uuid[], $5::text[]) AS wish (user_id, product_id)
               -- IS TRUE keeps this from being planned as a join, which would compare each pair.
               WHERE (user_id IN (SELECT id FROM created)) IS TRUE
           )
           SELECT id AS "id!", name AS "name!", email AS "email!", created_at AS "created_at!",
                  updated_at AS "updated_at!", version AS "version!"
           FROM created"#,
        &ids,
        &names as &[&str],
        &emails as &[&str],
        &owners,
        &product_ids as &[&str],
    )
    .fetch_all(connection)
    .await
}

/// Reads one user.
pub(crate) async fn get(connection: &mut PgConnection, id: UserId) -> Result<Option<User>, sqlx::Error> {
    sqlx::query_as!(User, "SELECT id, name, email, created_at, updated_at, version FROM users WHERE id = $1", id.0)
        .fetch_optional(connection)
        .await
}

/// Reads up to `limit` users with ids after `after`, in order of their ids; with this email if one is given.
pub(crate) async fn list(
    connection: &mut PgConnection,
    after: Option<Uuid>,
    email: Option<&Email>,
    limit: i64,
) -> Result<Vec<User>, sqlx::Error> {
    let after = after.unwrap_or_default();
    match email {
        None => {
            sqlx::query_as!(
                User,
                "SELECT id, name, email, created_at, updated_at, version FROM users
                 WHERE id > $1 ORDER BY id LIMIT $2",
                after,
                limit,
            )
            .fetch_all(connection)
            .await
        }
        Some(email) => {
            sqlx::query_as!(
                User,
                // At most one user has it, so there is nothing to order or limit. IS TRUE keeps the plan from passing
                // all ids after `after` instead of looking up the email.
                r#"SELECT id, name, email, created_at, updated_at, version FROM users
                   WHERE lower(email COLLATE "C") = lower($2 COLLATE "C") AND (id > $1) IS TRUE"#,
                after,
                email.as_str(),
            )
            .fetch_all(connection)
            .await
        }
    }
}

/// Updates the given attributes. Returns `None` if the user does not exist or the preconditions refuse its
/// version.
pub(crate) async fn update(
    connection: &mut PgConnection,
    id: UserId,
    name: Option<&Name>,
    email: Option<&Email>,
    preconditions: &Preconditions,
) -> Result<Option<User>, sqlx::Error> {
    let (allowed, refused) = (preconditions.allowed_versions(), preconditions.refused_versions());
    // An empty patch changes nothing, not even the version.
    sqlx::query_as!(
        User,
        "UPDATE users
         SET name = coalesce($2, name), email = coalesce($3, email),
             version = version + CASE WHEN $2 IS NULL AND $3 IS NULL THEN 0 ELSE 1 END,
             updated_at = CASE WHEN $2 IS NULL AND $3 IS NULL THEN updated_at ELSE now() END
         WHERE id = $1 AND ($4::bigint[] IS NULL OR version = ANY ($4)) AND version <> ALL ($5::bigint[])
         RETURNING id, name, email, created_at, updated_at, version",
        id.0,
        name.map(Name::as_str),
        email.map(Email::as_str),
        allowed.as_deref(),
        &refused,
    )
    .fetch_optional(connection)
    .await
}

/// Deletes a user and ends its sessions. Returns false if it does not exist or the preconditions refuse its version.
pub(crate) async fn delete(
    connection: &mut PgConnection,
    id: UserId,
    preconditions: &Preconditions,
) -> Result<bool, sqlx::Error> {
    let (allowed, refused) = (preconditions.allowed_versions(), preconditions.refused_versions());
    let mut transaction = connection.begin().await?;
    let deleted = sqlx::query!(
        "DELETE FROM users
         WHERE id = $1 AND ($2::bigint[] IS NULL OR version = ANY ($2)) AND version <> ALL ($3::bigint[])",
        id.0,
        allowed.as_deref(),
        &refused,
    );
    let is_deleted = deleted.execute(&mut *transaction).await?.rows_affected() > 0;
    if is_deleted {
        // A statement of its own also sees the sessions of logins that held the credential.
        session::end_others(&mut transaction, id, None).await?;
    }
    transaction.commit().await?;
    Ok(is_deleted)
}

/// Whether the error means that another user has the email.
pub(crate) fn is_email_taken(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Database(cause) if cause.constraint() == Some("users_email_key"))
}
