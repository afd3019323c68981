//! Who acts on reservations.

use std::sync::Arc;

use chassis::{Caller, Identity};

use super::reservation::Reservation;

/// The scope of callers who may change stock.
pub(crate) const STOCK_WRITE: &str = "inventory:write";

/// The scope of callers who may make and end reservations.
pub(crate) const RESERVATIONS_WRITE: &str = "reservations:write";

/// Who makes, reads or ends a reservation.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Actor {
    /// The issuer and the subject of the caller's token; empty if there is no token. The subjects of different issuers
    /// may be the same.
    pub(crate) subject: Arc<str>,
    /// Whether all reservations may be read and ended: by administrators, and by anybody without a token if none is
    /// required.
    has_all: bool,
}

impl Actor {
    /// Whether the reservation may be read and ended. If not, it must look as if it did not exist.
    pub(crate) fn may_access(&self, reservation: &Reservation) -> bool {
        self.has_all || self.subject == reservation.subject
    }

    /// Somebody with a token, who is not an administrator.
    #[cfg(test)]
    pub(crate) fn user(subject: &str) -> Self {
        Self { subject: subject.into(), has_all: false }
    }
}

impl From<&Identity> for Actor {
    fn from(identity: &Identity) -> Self {
        match identity.caller() {
            None => Self { subject: Arc::default(), has_all: identity.is_unrestricted() },
            Some(caller) => Self { subject: subject(caller), has_all: caller.is_admin() },
        }
    }
}

fn subject(caller: &Caller) -> Arc<str> {
    [caller.issuer(), " ", caller.subject()].concat().into()
}
