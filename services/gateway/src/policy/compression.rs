//! Compression of answers, where the client takes it and the content is worth it.

use std::{
    error::Error,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, response};
use http_body::Frame;
use pin_project_lite::pin_project;

use super::Body;

#[derive(Debug, Clone, clap::Args)]
pub(super) struct Args {
    /// Whether answers are compressed where the client takes that and their type is worth it
    #[arg(long, env, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    compression: bool,
}

pub(super) struct Compression {
    #[expect(dead_code, reason = "soon")]
    is_on: bool,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Asked;

impl Compression {
    pub(super) fn new(args: &Args) -> Self {
        Self { is_on: args.compression }
    }

    pub(super) fn see(&self, _headers: &HeaderMap) -> Asked {
        Asked
    }

    pub(super) fn to_upstream(&self, _headers: &mut HeaderMap) {}

    pub(super) fn apply<B>(&self, _is_head: bool, _asked: &Asked, _parts: &mut response::Parts, body: B) -> Body<B> {
        Body::Plain { body }
    }
}

pin_project! {
    /// A body, compressed.
    pub(crate) struct Gzip<B> { #[pin] body: B }
}

impl<B> Gzip<B>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    pub(super) fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Box<dyn Error + Send + Sync>>>> {
        self.project().body.poll_frame(cx).map_err(Into::into)
    }

    pub(super) fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}
