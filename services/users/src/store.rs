//! All SQL of users.

use chassis::IfMatch;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    creator::NewUser,
    error::Error,
    model::{Email, Name, User, UserId},
};

/// Stores new users, and returns those whose email was free.
pub(crate) async fn insert(
    connection: &mut PgConnection,
    users: &[(Uuid, &NewUser)],
) -> Result<Vec<User>, sqlx::Error> {
    let ids: Vec<Uuid> = users.iter().map(|(id, _)| *id).collect();
    let names: Vec<&str> = users.iter().map(|(_, user)| user.name.as_str()).collect();
    let emails: Vec<&str> = users.iter().map(|(_, user)| user.email.as_str()).collect();
    sqlx::query_as!(
        User,
        "INSERT INTO users (id, name, email) SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[])
         ON CONFLICT DO NOTHING
         RETURNING id, name, email, created_at, updated_at, version",
        &ids,
        &names as &[&str],
        &emails as &[&str],
    )
    .fetch_all(connection)
    .await
}

/// Reads one user.
pub(crate) async fn get(connection: &mut PgConnection, id: UserId) -> Result<User, Error> {
    sqlx::query_as!(User, "SELECT id, name, email, created_at, updated_at, version FROM users WHERE id = $1", id.0,)
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
