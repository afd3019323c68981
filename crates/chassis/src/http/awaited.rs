//! Requests whose body has not arrived.
//!
//! They do nothing but wait, so they do not count against the limit of requests that are handled: otherwise a few
//! clients that never send their bodies would keep everybody else out. They have a limit of their own. Beyond it, those
//! that have waited the longest are refused: an honest client sends the body right after the head. One whose body
//! arrives while too many requests are handled is refused too.

use std::{
    collections::BTreeMap,
    error::Error,
    iter,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use axum::{
    body::{Body, HttpBody},
    extract::Request,
};
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use prometheus::IntGauge;

use crate::limits::MAX_IN_FLIGHT;

/// The maximum number of requests that wait for their body.
const LIMIT: usize = 2048;

/// The requests that wait for their body.
#[derive(Clone)]
pub(crate) struct AwaitedBodies(Arc<Shared>);

struct Shared {
    limit: usize,
    /// Counts the requests that are handled. One that waits for its body is not.
    handling: IntGauge,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    /// The number of the next request that waits.
    next: u64,
    /// By number, so in the order in which they began to wait.
    wakers: BTreeMap<u64, Waker>,
}

impl AwaitedBodies {
    /// `handling` counts the requests that are handled.
    pub(crate) fn new(handling: IntGauge) -> Self {
        Self::with_limit(LIMIT, handling)
    }

    fn with_limit(limit: usize, handling: IntGauge) -> Self {
        Self(Arc::new(Shared { limit, handling, waiting: Mutex::default() }))
    }

    /// Keeps track of the request's body, if it has one. The request counts as handled.
    pub(crate) fn track(&self, request: Request) -> Request {
        if request.body().is_end_stream() {
            return request;
        }
        let bodies = self.0.clone();
        request.map(|body| Body::new(Awaited { body, bodies, number: None, is_late: false, is_waiting: false }))
    }
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The error of a body that is not waited for any longer, or that arrives when too many requests are handled.
#[derive(Debug, thiserror::Error)]
#[error("too many requests are in flight")]
struct Refused;

/// Returns whether the body was not read because too many requests are in flight.
pub(super) fn is_refused(error: &(dyn Error + 'static)) -> bool {
    iter::successors(Some(error), |&error| error.source()).any(<dyn Error>::is::<Refused>)
}

/// The body of a request.
struct Awaited {
    body: Body,
    bodies: Arc<Shared>,
    /// Kept while parts of the body arrive, so that a client that sends it slowly does not go to the end of the queue.
    number: Option<u64>,
    /// Whether the next part was not there when it was first asked for.
    is_late: bool,
    is_waiting: bool,
}

impl Awaited {
    fn wait(&mut self, waker: &Waker) {
        if !self.is_waiting {
            self.is_waiting = true;
            self.bodies.handling.dec();
        }
        let refused = {
            let mut waiting = self.bodies.waiting();
            let number = *self.number.get_or_insert_with(|| {
                waiting.next += 1;
                waiting.next
            });
            waiting.wakers.insert(number, waker.clone());
            if waiting.wakers.len() > self.bodies.limit { waiting.wakers.pop_first() } else { None }
        };
        if let Some((_, waker)) = refused {
            waker.wake();
        }
    }

    /// Returns whether the request may go on.
    fn resume(&mut self) -> bool {
        if !self.is_waiting {
            return true;
        }
        self.is_waiting = false;
        self.bodies.handling.inc();
        let is_awaited = self.number.is_some_and(|number| self.bodies.waiting().wakers.remove(&number).is_some());
        is_awaited && self.bodies.handling.get() <= MAX_IN_FLIGHT
    }
}

impl HttpBody for Awaited {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = self.get_mut();
        if !this.resume() {
            return Poll::Ready(Some(Err(axum::Error::new(Refused))));
        }
        let frame = Pin::new(&mut this.body).poll_frame(cx);
        if frame.is_ready() {
            this.is_late = false;
        } else if this.is_late {
            this.wait(cx.waker());
        } else {
            // hyper reads a body only once it is asked for, so one that has arrived is there the next time. The request
            // keeps its place until then.
            this.is_late = true;
            cx.waker().wake_by_ref();
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Awaited {
    fn drop(&mut self) {
        self.resume();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{StreamExt, poll, stream};
    use http_body_util::{BodyExt, Collected};

    use super::*;

    type Collecting = Pin<Box<dyn Future<Output = Result<Collected<Bytes>, axum::Error>>>>;

    fn begin(bodies: &AwaitedBodies, body: Body) -> Collecting {
        bodies.0.handling.inc();
        Box::pin(bodies.track(Request::new(body)).into_body().collect())
    }

    #[tokio::test]
    async fn the_bodies_waited_for_longest_are_refused() {
        let bodies = AwaitedBodies::with_limit(2, IntGauge::new("handling", "handling").expect("a gauge"));
        let never = || Body::from_stream(stream::pending::<Result<Bytes, axum::Error>>());
        let mut first = begin(&bodies, never());
        let some = stream::iter([Ok::<_, axum::Error>(Bytes::from_static(b"{"))]);
        let mut second = begin(&bodies, Body::from_stream(some.chain(stream::pending())));
        assert!(poll!(&mut first).is_pending() && poll!(&mut second).is_pending());
        assert_eq!(bodies.0.handling.get(), 2, "their bodies may have arrived");
        assert!(poll!(&mut first).is_pending() && poll!(&mut second).is_pending());
        assert_eq!(bodies.0.handling.get(), 0, "they are not handled");

        let mut third = begin(&bodies, never());
        assert!(poll!(&mut third).is_pending() && poll!(&mut third).is_pending());
        let Poll::Ready(Err(error)) = poll!(&mut first) else { panic!("the first one is not refused") };
        assert!(is_refused(&error), "{error}");
        assert!(poll!(&mut second).is_pending() && poll!(&mut third).is_pending(), "the others wait");
        assert!(begin(&bodies, Body::from("{}")).await.is_ok(), "a body that is there is read");
        assert_eq!(bodies.0.handling.get(), 2, "the refused one and the one with a body");
        drop((second, third));
        assert_eq!(bodies.0.handling.get(), 4);
        assert!(bodies.0.waiting().wakers.is_empty());
    }
}
