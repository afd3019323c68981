//! Who may do what. A caller is refused before the rest of the request is looked at.

use axum::extract::FromRequestParts;
use chassis::{Identity, Path, Problem};
use http::request::Parts;
use identity::{Caller, Kind, Reason, Refusal};
use serde::Deserialize;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{audit::Actor, error::Error, model::UserId, state::Users, store};

/// Reads users and their wishlists.
pub(crate) const READ: &str = "users:read";

/// Creates and changes users and their wishlists.
pub(crate) const WRITE: &str = "users:write";

/// Extracts nothing: a caller who may read all users.
pub(crate) struct Reader;

/// Extracts nothing: a caller who may create users.
pub(crate) struct Creator;

/// Extracts the user in the path, for a caller who may read it.
pub(crate) struct ReadableUser(pub(crate) UserId);

/// Extracts the user in the path, for a caller who may change it.
pub(crate) struct WritableUser(pub(crate) UserId);

/// Extracts an administrator.
pub(crate) struct Administrator(pub(crate) Identity);

/// Extracts nothing: a service, which its own token identifies, or an administrator.
pub(crate) struct ServiceCaller;

/// Extracts a user with a token of this issuer, whose session has not ended.
pub(crate) struct Myself {
    pub(crate) id: UserId,
    pub(crate) session: Uuid,
    pub(crate) identity: Identity,
}

impl FromRequestParts<Users> for Reader {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &Users) -> Result<Self, Problem> {
        Identity::of(&parts.extensions).require_scope(READ)?;
        Ok(Self)
    }
}

impl FromRequestParts<Users> for Creator {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &Users) -> Result<Self, Problem> {
        Identity::of(&parts.extensions).require_scope(WRITE)?;
        Ok(Self)
    }
}

impl FromRequestParts<Users> for ReadableUser {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, users: &Users) -> Result<Self, Problem> {
        users.require_self_or(parts, READ).await.map(Self)
    }
}

impl FromRequestParts<Users> for WritableUser {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, users: &Users) -> Result<Self, Problem> {
        users.require_self_or(parts, WRITE).await.map(Self)
    }
}

impl FromRequestParts<Users> for Administrator {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, users: &Users) -> Result<Self, Problem> {
        users.issuer()?;
        let identity = Identity::of(&parts.extensions);
        users.require_admin(&identity).await?;
        Ok(Self(identity))
    }
}

impl FromRequestParts<Users> for ServiceCaller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, users: &Users) -> Result<Self, Problem> {
        users.issuer()?;
        let identity = Identity::of(&parts.extensions);
        if !identity.caller().is_some_and(|caller| caller.kind() == Kind::Service) {
            users.require_admin(&identity).await?;
        }
        Ok(Self)
    }
}

impl FromRequestParts<Users> for Myself {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, users: &Users) -> Result<Self, Problem> {
        users.issuer()?;
        let identity = Identity::of(&parts.extensions);
        let session = identity.require_caller()?.session();
        let (Some(id), Some(session)) = (users.own_id(&identity), session) else {
            return Err(Refusal::Forbidden.into());
        };
        let owner = users.database.run(async |connection| store::session::owner(connection, session).await).await;
        if owner.map_err(Error::from)? == Some(id.0) {
            Ok(Self { id, session, identity })
        } else {
            Err(Refusal::InvalidToken(Reason::Revoked).into())
        }
    }
}

/// The parameters of a path. Some paths have more.
#[derive(Deserialize)]
struct PathOfUser {
    id: String,
}

impl Users {
    /// Allows a caller with the scope, and the user in the path. For all others that user does not exist.
    async fn require_self_or(&self, parts: &mut Parts, scope: &str) -> Result<UserId, Problem> {
        let identity = Identity::of(&parts.extensions);
        let is_allowed = match identity.require_scope(scope) {
            Err(Refusal::InsufficientScope(_)) => false,
            result => result.map(|()| true)?,
        };
        let Path(PathOfUser { id }) = Path::from_request_parts(parts, self).await?;
        let id = id.parse().map_err(Error::from)?;
        if is_allowed || self.own_id(&identity) == Some(id) { Ok(id) } else { Err(Error::NotFound.into()) }
    }

    /// The user that a token of this issuer is for.
    fn own_id(&self, identity: &Identity) -> Option<UserId> {
        let caller = identity.caller()?;
        let issuer = self.issuer().ok()?;
        // The subjects of other issuers may look like our ids, and so do those of our clients.
        let is_ours = caller.issuer() == issuer.url && caller.session().is_some();
        caller.subject().parse().ok().filter(|_| is_ours)
    }

    /// Allows administrators. A token of this issuer may be older than the end of its session or of the role.
    async fn require_admin(&self, identity: &Identity) -> Result<(), Error> {
        identity.require_admin()?;
        let session = identity.caller().and_then(Caller::session);
        let (Some(id), Some(session)) = (self.own_id(identity), session) else { return Ok(()) };
        let work = async |connection: &mut PgConnection| {
            store::session::has_role(connection, session, id, identity::ADMIN).await
        };
        if self.database.run(work).await? { Ok(()) } else { Err(Refusal::InvalidToken(Reason::Revoked).into()) }
    }
}

/// Who sent the request, for the audit log.
pub(crate) fn actor(identity: &Identity) -> Actor<'_> {
    let caller = identity.caller();
    Actor { subject: caller.map(Caller::subject), client: caller.and_then(Caller::client) }
}
