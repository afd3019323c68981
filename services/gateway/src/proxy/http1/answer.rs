//! The body of an answer, which drives its connection, and gives it back at the end.

use std::{
    mem,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::Instant;

use super::{Connection, Error, head::Rest};
use crate::proxy::endpoint::Lease;

/// The body of an answer, or the rest of it.
pub(crate) struct Answer {
    /// What came with the head, where that is all of it.
    whole: Option<Bytes>,
    source: Option<Source>,
    /// When all of it has to be there.
    until: Option<Instant>,
}

struct Source {
    connection: Box<Connection>,
    lease: Lease,
    worker: usize,
}

impl Source {
    /// The body is there in full: another request may have the connection.
    fn finish(self) {
        if let Some(connection) = self.connection.into_idle() {
            self.lease.endpoint().put(self.worker, connection);
        }
    }
}

impl Answer {
    pub(in crate::proxy) fn new(mut connection: Box<Connection>, lease: Lease, worker: usize) -> Self {
        let length = match connection.rest {
            Rest::Nothing => 0,
            Rest::Length(length) => usize::try_from(length).unwrap_or(usize::MAX),
            Rest::Chunks(..) | Rest::Connection => usize::MAX,
        };
        let is_there = connection.upload.is_none() && connection.read.len() >= length;
        // Where nothing follows, as it should be, there is nothing to share.
        let whole = (is_there && length > 0).then(|| match &mut connection.read {
            read if read.len() == length => mem::take(read).freeze(),
            read => read.split_to(length).freeze(),
        });
        if is_there {
            connection.rest = Rest::Nothing;
        }
        let source = Source { connection, lease, worker };
        if is_there {
            source.finish();
            return Self { whole, source: None, until: None };
        }
        Self { whole, source: Some(source), until: None }
    }

    /// Limits the time for what is still to come.
    pub(in crate::proxy) fn set_limit(&mut self, until: Instant) {
        self.until = Some(until);
    }

    /// Sends no more of the request, which goes to another endpoint.
    pub(in crate::proxy) fn give_up_upload(&mut self) {
        if let Some(Source { connection, .. }) = &mut self.source
            && connection.upload.take().is_some()
        {
            connection.is_kept = false;
        }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = &mut *self;
        if let Some(whole) = this.whole.take() {
            return Poll::Ready(Some(Ok(Frame::data(whole))));
        }
        let Some(source) = &mut this.source else { return Poll::Ready(None) };
        let mut frame = source.connection.poll_body(cx);
        if frame.is_pending()
            && let Some(until) = this.until
            && source.connection.alarm.poll(cx, until).is_ready()
        {
            frame = Poll::Ready(Some(Err(source.connection.overdue())));
        }
        // Where there is always more to read, as who takes it is slow, the alarm is never looked at.
        let is_late = |until| Instant::now() >= until;
        if matches!(frame, Poll::Ready(Some(Ok(_))))
            && !source.connection.rest.is_nothing()
            && this.until.is_some_and(is_late)
        {
            frame = Poll::Ready(Some(Err(Error::Unread)));
        }
        let frame = ready!(frame);
        let is_over = match &frame {
            Some(Ok(_)) => source.connection.rest.is_nothing(),
            Some(Err(_)) => {
                this.source = None;
                false
            }
            None => true,
        };
        if is_over && let Some(source) = this.source.take() {
            source.finish();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.whole.is_none() && self.source.as_ref().is_none_or(|source| source.connection.rest.is_nothing())
    }

    fn size_hint(&self) -> SizeHint {
        match (&self.whole, &self.source) {
            (Some(whole), _) => SizeHint::with_exact(whole.len() as u64),
            (None, Some(source)) => source.connection.rest.size_hint(),
            (None, None) => SizeHint::with_exact(0),
        }
    }
}
