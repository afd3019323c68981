//! Who may do what.

use chassis::Identity;
use identity::{Caller, Reason, Refusal};
use uuid::Uuid;

use crate::{audit::Actor, error::Error, model::UserId, state::Users, store};

/// Reads users and their wishlists.
pub(crate) const READ: &str = "users:read";

/// Creates and changes users and their wishlists.
pub(crate) const WRITE: &str = "users:write";

/// A user with a token of this issuer, and the session it belongs to.
pub(crate) struct Myself {
    pub(crate) id: UserId,
    pub(crate) session: Uuid,
}

impl Users {
    /// Allows a caller with the scope, and the user itself. For all others the user does not exist.
    pub(crate) fn require_self_or(&self, identity: &Identity, id: UserId, scope: &str) -> Result<(), Error> {
        match identity.require_scope(scope) {
            Err(Refusal::InsufficientScope(_)) if self.own_id(identity) == Some(id) => Ok(()),
            Err(Refusal::InsufficientScope(_)) => Err(Error::NotFound),
            result => Ok(result?),
        }
    }

    /// The user that a token of this issuer is for.
    fn own_id(&self, identity: &Identity) -> Option<UserId> {
        let caller = identity.caller()?;
        let issuer = self.issuer().ok()?;
        // The subjects of other issuers may look like our ids, and so do those of our clients.
        let is_ours = caller.issuer() == issuer.url && caller.session().is_some();
        caller.subject().parse().ok().filter(|_| is_ours)
    }

    /// The user of the token, if its session has not ended.
    pub(crate) async fn myself(&self, identity: &Identity) -> Result<Myself, Error> {
        let caller = identity.require_caller()?;
        let (Some(id), Some(session)) = (self.own_id(identity), caller.session()) else {
            return Err(Refusal::Forbidden.into());
        };
        let owner = self.database.run(async |connection| store::session::owner(connection, session).await).await?;
        if owner == Some(id.0) {
            Ok(Myself { id, session })
        } else {
            Err(Refusal::InvalidToken(Reason::Revoked).into())
        }
    }
}

/// Who sent the request, for the audit log.
pub(crate) fn actor(identity: &Identity) -> Actor<'_> {
    let caller = identity.caller();
    Actor { subject: caller.map(Caller::subject), client: caller.and_then(Caller::client) }
}
