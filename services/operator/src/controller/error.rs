//! What can go wrong between the operator and the API server.

use std::{future::Future, time::Duration};

use tokio::time;

use super::conditions::Finding;

/// How long one step may take.
pub(crate) const STEP_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a step failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{kind} {name} exists and belongs to somebody else; delete it or choose another name")]
    Taken { kind: String, name: String },
    #[error("{step}: the API server does not answer")]
    Timeout { step: &'static str },
    #[error("{step}: {source}")]
    Kube { step: &'static str, source: kube::Error },
    #[error("an object cannot be written as JSON: {0}")]
    Json(#[from] serde_json::Error),
}

impl Error {
    /// Whether the object is not there, or is another one by now.
    pub(crate) fn is_gone(&self) -> bool {
        matches!(self, Self::Kube { source: kube::Error::Api(status), .. } if matches!(status.code, 404 | 409))
    }

    /// Whether an object of that name is there already.
    pub(crate) fn is_conflict(&self) -> bool {
        matches!(self, Self::Kube { source: kube::Error::Api(status), .. } if status.code == 409)
    }

    /// What this means for the object.
    pub(crate) fn finding(&self) -> Finding {
        let text = self.to_string();
        match self {
            Self::Taken { .. } => Finding::wrong("Conflict", text),
            Self::Kube { source: kube::Error::Api(status), .. } => match status.code {
                403 if text.contains("exceeded quota") => Finding::pending("QuotaExceeded", text),
                400 | 403 | 422 => Finding::wrong("Refused", text),
                _ => Finding::pending("Retrying", text),
            },
            _ => Finding::pending("Retrying", text),
        }
    }
}

/// Runs one step against the API server, with a limit of time.
pub(crate) async fn within<T>(
    step: &'static str,
    request: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, Error> {
    match time::timeout(STEP_TIMEOUT, request).await {
        Ok(result) => result.map_err(|source| Error::Kube { step, source }),
        Err(_) => Err(Error::Timeout { step }),
    }
}
