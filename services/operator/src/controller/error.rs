//! Errors of requests to the API server.

use std::{future::Future, time::Duration};

use tokio::time;

use super::conditions::ConditionResult;

/// The timeout of one step.
pub(crate) const STEP_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a step failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(
        "{kind} {name} already exists and is not owned by this object: delete it, or create this object with another name"
    )]
    Conflict { kind: String, name: String },
    #[error("{kind} {name} of a deleted object still exists; it is created again once Kubernetes has deleted it")]
    Leftover { kind: String, name: String },
    #[error("cannot {step}: the API server timed out")]
    Timeout { step: &'static str },
    #[error("cannot {step}: {source}")]
    Kube { step: &'static str, source: kube::Error },
    #[error("the API server does not say with which keys it signs the tokens of service accounts")]
    NoKeys,
    #[error("cannot serialize an object: {0}")]
    Json(#[from] serde_json::Error),
}

impl From<Error> for ConditionResult {
    fn from(error: Error) -> Self {
        error.result()
    }
}

impl Error {
    /// Whether the object does not exist or has changed since it was read.
    pub(crate) fn is_gone(&self) -> bool {
        matches!(self, Self::Kube { source: kube::Error::Api(status), .. } if matches!(status.code, 404 | 409))
    }

    /// Whether a JSON Patch was refused because the object of that name has another uid.
    pub(crate) fn is_of_another_object(&self) -> bool {
        matches!(self, Self::Kube { source: kube::Error::Api(status), .. }
            if status.code == 422 && status.message == TEST_FAILED)
    }

    /// Whether an object of that name does not belong to the `Microservice`.
    pub(crate) fn is_refusal(&self) -> bool {
        matches!(self, Self::Conflict { .. } | Self::Leftover { .. })
    }

    /// Whether an object of that name exists or has changed.
    pub(crate) fn is_conflict(&self) -> bool {
        matches!(self, Self::Kube { source: kube::Error::Api(status), .. } if status.code == 409)
    }

    /// The condition that results for the object.
    pub(crate) fn result(&self) -> ConditionResult {
        let text = self.to_string();
        match self {
            Self::Conflict { .. } => ConditionResult::stalled("Conflict", text),
            Self::Leftover { .. } => ConditionResult::pending("WaitingForDeletion", text),
            Self::Kube { source: kube::Error::Api(status), .. } => match status.code {
                403 if text.contains("exceeded quota") => ConditionResult::pending("QuotaExceeded", text),
                // The kind is being uninstalled.
                403 if text.contains("custom resource definition is terminating") => {
                    ConditionResult::pending("Retrying", text)
                }
                400 | 403 | 422 => ConditionResult::stalled("Refused", text),
                _ => ConditionResult::pending("Retrying", text),
            },
            _ => ConditionResult::pending("Retrying", text),
        }
    }
}

/// What the API server says of a JSON Patch whose test failed. That of an invalid object names the object.
const TEST_FAILED: &str = "the server rejected our request due to an error in our request";

/// Runs one request to the API server with [`STEP_TIMEOUT`]. `step` is a verb phrase for errors.
pub(crate) async fn with_timeout<T>(
    step: &'static str,
    request: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, Error> {
    match time::timeout(STEP_TIMEOUT, request).await {
        Ok(result) => result.map_err(|source| Error::Kube { step, source }),
        Err(_) => Err(Error::Timeout { step }),
    }
}
