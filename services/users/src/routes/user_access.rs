//! `PUT /users/{id}/password`, `PUT /users/{id}/roles`.

use axum::extract::State;
use chassis::{Fields, FromFields, Json, Path};
use http::StatusCode;
use utoipa::ToSchema;

use crate::{
    access::{Administrator, actor},
    client_address::Origin,
    error::Error,
    issuer::forget_attempts,
    model::{Role, UserId},
    password::NewPassword,
    state::Users,
    store::{self, credential, role},
};

/// A user's new password.
#[derive(ToSchema)]
pub(super) struct NewUserPassword {
    new: NewPassword,
}

impl FromFields for NewUserPassword {
    fn from_fields(fields: &mut Fields) -> Option<Self> {
        Some(Self { new: fields.required("new")? })
    }
}

/// The roles of a user.
#[derive(ToSchema)]
pub(super) struct Roles {
    /// The roles besides `user`, which every user has.
    roles: Vec<Role>,
}

impl FromFields for Roles {
    fn from_fields(fields: &mut Fields) -> Option<Self> {
        Some(Self { roles: fields.required("roles")? })
    }
}

/// Set a user's password
///
/// For administrators. All sessions of the user end.
#[utoipa::path(
    put,
    path = "/users/{id}/password",
    operation_id = "setPassword",
    tag = "auth",
    security(("bearer" = [])),
    params(("id" = Uuid, Path, description = "The user's id.")),
    request_body = NewUserPassword,
    responses(
        (status = NO_CONTENT, description = "The password was set."),
        (status = UNAUTHORIZED, description = "The request has no valid token."),
        (status = FORBIDDEN, description = "The caller is not an administrator."),
        (status = NOT_FOUND, description = "The user does not exist."),
    ),
)]
pub(super) async fn set_password(
    State(users): State<Users>,
    Administrator(identity): Administrator,
    origin: Origin,
    Path(id): Path<String>,
    Json(NewUserPassword { new }): Json<NewUserPassword>,
) -> Result<StatusCode, Error> {
    let issuer = users.issuer()?;
    let id: UserId = id.parse()?;
    let user = users.database.run(async |connection| store::get(connection, id).await).await?;
    if new.is_email(&user.ok_or(Error::NotFound)?.email) {
        return Err(Error::PasswordIsEmail);
    }
    let phc = issuer.hasher.hash(issuer.hasher.enter()?, new.into_password()).await?;
    let set = users.database.change(async |connection| credential::set(connection, id, &phc, None, None).await).await;
    let email = set.map_err(Error::from_write)?.ok_or(Error::NotFound)?;
    issuer.audit.change("password_set", &actor(&identity), id, &origin);
    forget_attempts(&users.database, &email).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Set a user's roles
///
/// For administrators. New roles take effect at the next login or refresh. If a role is taken away, all sessions of the
/// user end.
#[utoipa::path(
    put,
    path = "/users/{id}/roles",
    operation_id = "setRoles",
    tag = "auth",
    security(("bearer" = [])),
    params(("id" = Uuid, Path, description = "The user's id.")),
    request_body = Roles,
    responses(
        (status = NO_CONTENT, description = "The roles were set."),
        (status = UNAUTHORIZED, description = "The request has no valid token."),
        (status = FORBIDDEN, description = "The caller is not an administrator."),
        (status = NOT_FOUND, description = "The user does not exist."),
    ),
)]
pub(super) async fn set_roles(
    State(users): State<Users>,
    Administrator(identity): Administrator,
    origin: Origin,
    Path(id): Path<String>,
    Json(Roles { roles }): Json<Roles>,
) -> Result<StatusCode, Error> {
    let issuer = users.issuer()?;
    let id: UserId = id.parse()?;
    let mut roles: Vec<&str> = roles.into_iter().filter_map(Role::stored).collect();
    roles.sort_unstable();
    roles.dedup();
    let set = users.database.change(async |connection| role::set(connection, id, &roles).await).await;
    if !set.map_err(Error::from_write)? {
        return Err(Error::NotFound);
    }
    issuer.audit.change("roles_set", &actor(&identity), format_args!("{id} {roles:?}"), &origin);
    Ok(StatusCode::NO_CONTENT)
}
