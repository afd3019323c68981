//! A call on a connection: its stream, and the request that is being sent.

use std::{
    future,
    io::{self, ErrorKind},
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use hyper::{body::Incoming, client::conn::http2::SendRequest};
use tokio::{select, time};

use super::{Reset, SETTINGS_TIMEOUT, kind};
use crate::{
    metrics::UpstreamError,
    proxy::{
        outcome::AttemptError,
        replayable_body::{RequestBodyError, UpstreamBody},
    },
};

/// What a connection carries.
#[derive(Default)]
pub(super) struct Load {
    /// The streams of calls that have not ended or whose request is still being sent.
    pub(super) streams: AtomicUsize,
    /// The calls that have not ended.
    pub(super) calls: AtomicUsize,
    /// Whether a call was cut off. The peer may count its reset, and the window that it used, against the connection.
    pub(super) is_spoiled: AtomicBool,
    /// Whether the loss of the connection says nothing about the peer: a client has cut off a call, for which the peer
    /// may have closed the connection, or the loss has been counted.
    is_excused: AtomicBool,
}

/// A stream of a connection, for one call. When it is dropped, the call has ended, and no more of its request is sent.
pub(in crate::proxy) struct Stream {
    sender: SendRequest<CallBody>,
    slot: Arc<Slot>,
    upload: Arc<Upload>,
    is_complete: bool,
    has_failed: bool,
}

/// Counts a stream until its call has ended and no more of the request is to be sent.
struct Slot(Arc<Load>);

/// The request of a call that is being sent.
#[derive(Default)]
struct Upload {
    /// `None` before the call is sent and after it has ended.
    body: Mutex<Option<UpstreamBody>>,
    ended: AtomicWaker,
    /// Whether the peer has allowed the stream: hyper has asked for the body or has no use for it.
    is_open: AtomicBool,
}

/// The body of a call.
pub(super) struct CallBody {
    upload: Arc<Upload>,
    slot: Arc<Slot>,
}

impl Stream {
    /// A stream of a connection that carries this load.
    pub(super) fn new(sender: SendRequest<CallBody>, load: Arc<Load>) -> Self {
        load.streams.fetch_add(1, Ordering::Relaxed);
        load.calls.fetch_add(1, Ordering::Relaxed);
        Self { sender, slot: Arc::new(Slot(load)), upload: Arc::default(), is_complete: false, has_failed: false }
    }

    /// Sends a call and waits for the head of its response.
    pub(in crate::proxy) async fn send(
        &mut self,
        request: Request<UpstreamBody>,
    ) -> Result<Response<Incoming>, AttemptError> {
        let request = request.map(|body| {
            *self.upload.lock() = Some(body);
            CallBody { upload: self.upload.clone(), slot: self.slot.clone() }
        });
        let upload = &self.upload;
        let not_opened = async {
            time::sleep(SETTINGS_TIMEOUT).await;
            if upload.is_open.load(Ordering::Relaxed) {
                future::pending::<()>().await;
            }
        };
        select! {
            biased;
            sent = self.sender.try_send_request(request) => sent.map_err(|mut error| {
                self.has_failed = true;
                let is_unsent = error.take_message().is_some();
                let error = error.into_error();
                let reset = Reset::of(&error);
                AttemptError {
                    is_refused: reset.as_ref().is_some_and(Reset::is_refusal),
                    is_of_endpoint: match reset {
                        Some(reset) => !reset.is_benign(),
                        // An unsent call is tried again on another connection.
                        None => is_unsent || !self.slot.0.is_excused.swap(true, Ordering::Relaxed),
                    },
                    ..AttemptError::new(kind(&error), &error, is_unsent)
                }
            }),
            // The peer has lowered its limit meanwhile. hyper may still send the call later.
            () = not_opened => {
                let late = io::Error::new(ErrorKind::TimedOut, "the service does not allow another stream");
                Err(AttemptError::new(UpstreamError::Timeout, &late, false))
            }
        }
    }

    /// Records that the response is complete.
    pub(in crate::proxy) fn complete(&mut self) {
        self.is_complete = true;
    }

    /// Records that the peer has not sent the complete response, so that the client has not cut it off.
    pub(in crate::proxy) fn fail(&mut self) {
        self.has_failed = true;
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let load = &self.slot.0;
        load.calls.fetch_sub(1, Ordering::Relaxed);
        if !self.is_complete {
            load.is_spoiled.store(true, Ordering::Relaxed);
            if !self.has_failed {
                load.is_excused.store(true, Ordering::Relaxed);
            }
        }
        self.upload.end();
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Upload {
    fn lock(&self) -> MutexGuard<'_, Option<UpstreamBody>> {
        self.body.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends no more of the request. Its client then learns that the rest is not wanted.
    fn end(&self) {
        let body = self.lock().take();
        drop(body);
        self.ended.wake();
    }
}

impl Drop for CallBody {
    fn drop(&mut self) {
        self.upload.is_open.store(true, Ordering::Relaxed);
        let body = self.upload.lock().take();
        if !body.is_some_and(|body| body.is_end_stream()) {
            self.slot.0.is_spoiled.store(true, Ordering::Relaxed);
        }
    }
}

impl Body for CallBody {
    type Data = Bytes;
    type Error = RequestBodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, RequestBodyError>>> {
        let upload = &self.upload;
        upload.is_open.store(true, Ordering::Relaxed);
        upload.ended.register(cx.waker());
        match &mut *upload.lock() {
            Some(body) => Pin::new(body).poll_frame(cx),
            None => Poll::Ready(Some(Err(RequestBodyError::Incomplete))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.upload.lock().as_ref().is_some_and(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.upload.lock().as_ref().map_or_else(SizeHint::default, Body::size_hint)
    }
}
