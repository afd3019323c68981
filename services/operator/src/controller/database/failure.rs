//! Why a database is not as specified, and what that means for the service.

use super::super::{conditions::ConditionResult, error::Error};
use crate::database::{self, Invalid};

/// Why a database is not as specified.
pub(super) enum Failure {
    /// It could not be verified. A database that was ready before can still be used.
    Unverified(ConditionResult),
    /// The service must not use it, or not yet.
    Refused(ConditionResult),
    /// Nothing new is known: the object waits for others that use the server, or the server has not responded yet.
    Waiting(ConditionResult),
}

impl From<database::Error> for Failure {
    fn from(error: database::Error) -> Self {
        if error.is_conflict() { Self::Refused(error.into()) } else { Self::Unverified(error.into()) }
    }
}

impl From<Invalid> for Failure {
    fn from(invalid: Invalid) -> Self {
        database::Error::from(invalid).into()
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Conflict { .. } => Self::Refused(error.into()),
            error => Self::Unverified(error.into()),
        }
    }
}

impl From<Failure> for ConditionResult {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Unverified(result) | Failure::Refused(result) | Failure::Waiting(result) => result,
        }
    }
}

impl From<database::Error> for ConditionResult {
    fn from(error: database::Error) -> Self {
        let message = error.to_string();
        match error {
            database::Error::Unreachable { .. }
            | database::Error::Unresponsive { .. }
            | database::Error::TooManyConnections { .. }
            | database::Error::Sql { .. } => Self::pending(error.reason(), message),
            _ => Self::stalled(error.reason(), message),
        }
    }
}

impl From<Invalid> for ConditionResult {
    fn from(invalid: Invalid) -> Self {
        database::Error::from(invalid).into()
    }
}
