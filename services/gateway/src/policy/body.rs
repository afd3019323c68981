//! The body of an answer: as it came, or compressed on its way.

use std::{
    error::Error,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use pin_project_lite::pin_project;

use super::compression::Gzip;

pin_project! {
    /// The body of an answer.
    #[project = Projected]
    pub(crate) enum Body<B> {
        /// As it came.
        Plain { #[pin] body: B },
        /// Compressed.
        Gzip { #[pin] body: Gzip<B> },
    }
}

impl<B> http_body::Body for Body<B>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    type Data = Bytes;
    type Error = Box<dyn Error + Send + Sync>;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        match self.project() {
            Projected::Plain { body } => body.poll_frame(cx).map_err(Into::into),
            Projected::Gzip { body } => body.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Plain { body } => body.is_end_stream(),
            Self::Gzip { body } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Plain { body } => body.size_hint(),
            Self::Gzip { body } => body.size_hint(),
        }
    }
}
