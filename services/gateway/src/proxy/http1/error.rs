//! What can go wrong on a connection, and how long each step may take.

use std::{io, time::Duration};

use tokio::time::Instant;

use crate::{metrics::UpstreamError, proxy::replayable_body::RequestBodyError};

/// Why there is no response, or not all of it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("the connection failed")]
    Io(#[from] io::Error),
    #[error("the connection was closed before the end of the response")]
    Closed,
    #[error("invalid HTTP response: {0}")]
    Protocol(&'static str),
    #[error("the response did not arrive in time")]
    Timeout,
    #[error("the client did not read the response in time")]
    SlowReader,
    #[error("the request could not be read")]
    Request(#[from] RequestBodyError),
}

impl Error {
    pub(in crate::proxy) fn kind(&self) -> UpstreamError {
        match self {
            Self::Protocol(_) => UpstreamError::Protocol,
            Self::Timeout | Self::SlowReader => UpstreamError::Timeout,
            Self::Io(_) | Self::Closed | Self::Request(_) => UpstreamError::Reset,
        }
    }

    /// Whether the client is the cause, and not the endpoint.
    pub(in crate::proxy) fn is_of_client(&self) -> bool {
        matches!(self, Self::SlowReader | Self::Request(_))
    }
}

/// Why a request got no response head.
pub(in crate::proxy) enum SendError {
    /// Nothing was sent, and the body is untouched.
    Unsent(Error),
    /// Some or all of the request was sent.
    Sent(Error),
}

/// When a request has to make progress.
#[derive(Clone, Copy)]
pub(in crate::proxy) struct Deadlines {
    /// When the response head is due if the whole request is sent at once.
    pub(in crate::proxy) head: Instant,
    /// How long the endpoint may take to read more of the request, and to send the response head once it has all of it.
    pub(in crate::proxy) header: Duration,
    /// When everything has to be done.
    pub(in crate::proxy) total: Instant,
}
