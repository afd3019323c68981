//! All SQL of users.

use chassis::IfMatch;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    error::Error,
    model::{Email, Name, User, UserId},
};

/// Stores a new user.
pub(crate) async fn insert(connection: &mut PgConnection, name: &Name, email: &Email) -> Result<User, Error> {
    sqlx::query_as!(
        User,
        "INSERT INTO users (id, name, email) VALUES ($1, $2, $3)
         RETURNING id, name, email, created_at, updated_at, version",
        Uuid::now_v7(),
        name.as_str(),
        email.as_str(),
    )
    .fetch_one(connection)
    .await
    .map_err(email_taken)
}

/// Reads one user.
pub(crate) async fn get(connection: &mut PgConnection, id: UserId) -> Result<User, Error> {
    sqlx::query_as!(
        User,
        "SELECT id, name, email, created_at, updated_at, version FROM users WHERE id = $1",
        id.0,
    )
    .fetch_optional(connection)
    .await?
    .ok_or(Error::NotFound)
}

/// Reads up to `limit` users by id, those after `after`, of one email where it is given.
pub(crate) async fn list(
    connection: &mut PgConnection,
    after: Option<Uuid>,
    email: Option<&Email>,
    limit: i64,
) -> Result<Vec<User>, Error> {
    let after = after.unwrap_or_default();
    let users = match email {
        None => {
            sqlx::query_as!(
                User,
                "SELECT id, name, email, created_at, updated_at, version FROM users
                 WHERE id > $1 ORDER BY id LIMIT $2",
                after,
                limit,
            )
            .fetch_all(connection)
            .await?
        }
        Some(email) => {
            sqlx::query_as!(
                User,
                r#"SELECT id, name, email, created_at, updated_at, version FROM users
                   WHERE id > $1 AND lower(email COLLATE "C") = lower($2 COLLATE "C") ORDER BY id LIMIT $3"#,
                after,
                email.as_str(),
                limit,
            )
            .fetch_all(connection)
            .await?
        }
    };
    Ok(users)
}

/// Changes what is given, if the user's version is one that `if_match` admits.
pub(crate) async fn update(
    connection: &mut PgConnection,
    id: UserId,
    name: Option<&Name>,
    email: Option<&Email>,
    if_match: &IfMatch,
) -> Result<User, Error> {
    let updated = sqlx::query_as!(
        User,
        "UPDATE users
         SET name = coalesce($2, name), email = coalesce($3, email), version = version + 1, updated_at = now()
         WHERE id = $1 AND ($4::bigint[] IS NULL OR version = ANY ($4))
         RETURNING id, name, email, created_at, updated_at, version",
        id.0,
        name.map(Name::as_str),
        email.map(Email::as_str),
        if_match.versions(),
    )
    .fetch_optional(&mut *connection)
    .await
    .map_err(email_taken)?;
    match updated {
        Some(user) => Ok(user),
        // It is not there, or it has another version.
        None => get(connection, id).await.and(Err(Error::Changed)),
    }
}

/// Deletes a user, if its version is one that `if_match` admits.
pub(crate) async fn delete(connection: &mut PgConnection, id: UserId, if_match: &IfMatch) -> Result<(), Error> {
    let deleted = sqlx::query!(
        "DELETE FROM users WHERE id = $1 AND ($2::bigint[] IS NULL OR version = ANY ($2))",
        id.0,
        if_match.versions(),
    )
    .execute(&mut *connection)
    .await?;
    if deleted.rows_affected() == 0 {
        return get(connection, id).await.and(Err(Error::Changed));
    }
    Ok(())
}

fn email_taken(error: sqlx::Error) -> Error {
    match &error {
        sqlx::Error::Database(cause) if cause.constraint() == Some("users_email_key") => Error::EmailTaken,
        _ => error.into(),
    }
}
