//! Batch handlers, and the queue from which they may take more requests.

use tokio::{
    sync::{mpsc, oneshot},
    task,
    time::{self, Instant},
};

/// If this many requests are queued, the batch starts without yielding for more: the cost of each request hardly drops
/// in a larger batch.
const LARGE_ENOUGH: usize = 16;

/// Handles a batch of requests.
pub trait Handler: Send + 'static {
    /// A request.
    type Request: Send + 'static;
    /// The reply to a request.
    type Reply: Send + 'static;

    /// Handles the requests, in order of arrival. Returns one reply for each, in the same order.
    fn handle(&mut self, batch: Vec<Self::Request>) -> impl Future<Output = Vec<Self::Reply>> + Send;

    /// The share of a request in the maximum weight of a batch, such as the number of rows that it inserts.
    #[must_use]
    fn weight(_: &Self::Request) -> usize {
        1
    }
}

/// Handles a batch of requests that is still open: the handler may take requests that arrive while it works, from
/// `arrivals`, and add them to the batch. Every [`Handler`] is an `OpenHandler` that takes none.
pub trait OpenHandler: Sized + Send + 'static {
    /// A request.
    type Request: Send + 'static;
    /// The reply to a request.
    type Reply: Send + 'static;

    /// Handles the requests, in order of arrival, and those that join. Returns one reply for each: first those of the
    /// batch, then those of the requests that joined, in order.
    fn handle(
        &mut self,
        batch: Vec<Self::Request>,
        arrivals: &mut Arrivals<'_, Self>,
    ) -> impl Future<Output = Vec<Self::Reply>> + Send;

    /// The share of a request in the maximum weight of a batch.
    #[must_use]
    fn weight(_: &Self::Request) -> usize {
        1
    }

    /// When the handler is called with an empty batch if no request has arrived by then: it has work left over, such as
    /// requests to which it replies on channels of their own.
    fn wake_at(&self) -> Option<Instant> {
        None
    }
}

impl<H: Handler> OpenHandler for H {
    type Request = H::Request;
    type Reply = H::Reply;

    fn handle(
        &mut self,
        batch: Vec<H::Request>,
        _: &mut Arrivals<'_, Self>,
    ) -> impl Future<Output = Vec<H::Reply>> + Send {
        Handler::handle(self, batch)
    }

    fn weight(request: &H::Request) -> usize {
        <H as Handler>::weight(request)
    }
}

/// Splits a batch, in order, into parts whose weight is at most `max`. A heavier request is a part of its own.
pub fn split<T>(batch: Vec<T>, max: usize, weight: impl Fn(&T) -> usize) -> Vec<Vec<T>> {
    let mut parts: Vec<Vec<T>> = Vec::new();
    let mut total = max;
    for request in batch {
        let own = weight(&request);
        total += own;
        match parts.last_mut() {
            Some(part) if total <= max => part.push(request),
            _ => {
                parts.push(vec![request]);
                total = own;
            }
        }
    }
    parts
}

/// A queued request and the sender of its reply.
pub(super) type Queued<H> = (<H as OpenHandler>::Request, oneshot::Sender<<H as OpenHandler>::Reply>);

/// The requests that arrive while a batch is in flight. An [`OpenHandler`] can let them join the batch, until its work
/// has gone too far; the others are left to the next batch.
pub struct Arrivals<'a, H: OpenHandler> {
    pub(super) queue: &'a mut Queue<H>,
    /// The senders of the replies: those of the batch, then those of the requests that joined.
    pub(super) senders: Vec<oneshot::Sender<H::Reply>>,
}

impl<H: OpenHandler> Arrivals<'_, H> {
    /// Takes the next request, if there is one and `joins` returns true for it. Otherwise it stays first in the queue,
    /// and no request overtakes it.
    pub fn next_if(&mut self, joins: impl FnOnce(&H::Request) -> bool) -> Option<H::Request> {
        let (request, sender) = self.queue.try_next()?;
        if joins(&request) {
            self.senders.push(sender);
            return Some(request);
        }
        self.queue.next = Some((request, sender));
        None
    }
}

/// The queued requests, in order of arrival.
pub(super) struct Queue<H: OpenHandler> {
    /// The first request, if a handler has seen it and did not let it join.
    pub(super) next: Option<Queued<H>>,
    pub(super) arrivals: mpsc::Receiver<Queued<H>>,
}

impl<H: OpenHandler> Queue<H> {
    /// Waits for a request, at most until `wake_at`, and takes it with the other queued ones, up to `max_weight`; a
    /// heavier request is a batch of its own. Returns `None` when the queue is closed.
    pub(super) async fn next_batch(
        &mut self,
        max_weight: usize,
        wake_at: Option<Instant>,
    ) -> Option<(Vec<H::Request>, Vec<oneshot::Sender<H::Reply>>)> {
        if self.next.is_none() {
            let arrival = self.arrivals.recv();
            self.next = match wake_at {
                None => Some(arrival.await?),
                Some(wake_at) => match time::timeout_at(wake_at, arrival).await {
                    Ok(arrival) => Some(arrival?),
                    Err(_) => None,
                },
            };
        }
        if self.arrivals.len() < LARGE_ENOUGH {
            // Lets tasks that are about to send a request run first: in a larger batch, each request costs less.
            task::yield_now().await;
        }
        let (mut batch, mut senders, mut weight) = (Vec::new(), Vec::new(), 0);
        while let Some((request, sender)) = self.try_next() {
            weight += H::weight(&request);
            if weight > max_weight && !batch.is_empty() {
                self.next = Some((request, sender));
                break;
            }
            batch.push(request);
            senders.push(sender);
        }
        Some((batch, senders))
    }

    /// Takes the next request. Cancelled ones were not started, so they are dropped.
    fn try_next(&mut self) -> Option<Queued<H>> {
        let queued = std::iter::from_fn(|| self.next.take().or_else(|| self.arrivals.try_recv().ok()));
        queued.into_iter().find(|(_, sender)| !sender.is_closed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_keep_the_order_and_the_maximum_weight() {
        let split = |batch: &[usize]| split(batch.to_vec(), 10, |weight| *weight);
        assert!(split(&[]).is_empty());
        assert_eq!(split(&[4, 6, 1, 9, 1]), [vec![4, 6], vec![1, 9], vec![1]]);
        assert_eq!(split(&[11, 1, 12]), [vec![11], vec![1], vec![12]]);
    }
}
