//! The task that runs a handler, and the handle that sends requests to it.

use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;
use runtime::Problem;
use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot},
};

use super::handler::{Arrivals, OpenHandler, Queue, Queued};

/// Why a request got no reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// The queue is full; the request was not started.
    #[error("too many requests are queued")]
    Overloaded,
    /// The handler panicked, or returned too few replies.
    #[error("the batch handler returned no reply")]
    Lost,
}

/// Sends requests to an [`OpenHandler`] in batches.
pub struct Batcher<H: OpenHandler> {
    queue: mpsc::Sender<Queued<H>>,
}

impl<H: OpenHandler> Batcher<H> {
    /// Starts the task that owns the handler, on this runtime. The queue holds at most `capacity` requests. The
    /// requests of a batch weigh at most `max_weight`; others may join it.
    pub fn spawn(on: &Handle, mut handler: H, capacity: usize, max_weight: usize) -> Self {
        let (queue, arrivals) = mpsc::channel::<Queued<H>>(capacity);
        on.spawn(async move {
            let mut queue = Queue { next: None, arrivals };
            while let Some((batch, senders)) = queue.next_batch(max_weight, handler.wake_at()).await {
                if batch.is_empty() && handler.wake_at().is_none() {
                    continue;
                }
                let mut arrivals = Arrivals { queue: &mut queue, senders };
                // The panic hook has reported a panic. Its senders are dropped, and the task continues.
                let replies = AssertUnwindSafe(handler.handle(batch, &mut arrivals)).catch_unwind().await;
                for (sender, reply) in arrivals.senders.into_iter().zip(replies.unwrap_or_default()) {
                    let _ = sender.send(reply);
                }
            }
        });
        Self { queue }
    }

    /// Queues a request and waits for its reply.
    ///
    /// # Errors
    /// Returns [`BatchError::Overloaded`] at once if the queue is full, and [`BatchError::Lost`] if the handler
    /// returned no reply.
    pub async fn submit(&self, request: H::Request) -> Result<H::Reply, BatchError> {
        let (sender, reply) = oneshot::channel();
        self.queue.try_send((request, sender)).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => BatchError::Overloaded,
            mpsc::error::TrySendError::Closed(_) => BatchError::Lost,
        })?;
        reply.await.map_err(|_| BatchError::Lost)
    }
}

impl From<BatchError> for Problem {
    fn from(error: BatchError) -> Self {
        match error {
            BatchError::Overloaded => Self::unavailable("too many requests are waiting; try again in a moment"),
            BatchError::Lost => Self::internal(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::handler::Handler, *};
    use std::sync::Arc;
    use tokio::{sync::Semaphore, task, time::Instant};

    /// Returns each number with the size of its batch, once a permit is available.
    struct Sizes(Arc<Semaphore>);

    impl Handler for Sizes {
        type Request = u32;
        type Reply = (u32, usize);

        async fn handle(&mut self, batch: Vec<u32>) -> Vec<(u32, usize)> {
            self.0.acquire().await.expect("open").forget();
            assert!(!batch.contains(&13), "a request that makes the handler panic");
            let size = batch.len();
            batch.into_iter().map(|number| (number, size)).collect()
        }
    }

    fn start(capacity: usize) -> (Arc<Semaphore>, Arc<Batcher<Sizes>>) {
        let gate = Arc::new(Semaphore::new(0));
        (gate.clone(), Arc::new(Batcher::spawn(&Handle::current(), Sizes(gate), capacity, 64)))
    }

    /// Waits until the handler has taken all queued requests.
    async fn taken<H: OpenHandler>(batcher: &Batcher<H>) {
        while batcher.queue.capacity() < batcher.queue.max_capacity() {
            task::yield_now().await;
        }
        task::yield_now().await;
        task::yield_now().await;
    }

    #[tokio::test]
    async fn requests_that_arrive_during_a_batch_share_the_next_one() {
        let (gate, batcher) = start(64);
        let first = batcher.submit(0);
        tokio::pin!(first);
        assert!(first.as_mut().now_or_never().is_none());
        taken(&batcher).await;
        let rest = futures_util::future::join_all((1..=5).map(|number| batcher.submit(number)));
        tokio::pin!(rest);
        assert!(rest.as_mut().now_or_never().is_none());
        gate.add_permits(2);
        assert_eq!(first.await, Ok((0, 1)));
        assert_eq!(rest.await, (1..=5).map(|number| Ok((number, 5))).collect::<Vec<_>>());
    }

    /// The same; even numbers may join a batch.
    struct Even(Sizes);

    impl OpenHandler for Even {
        type Request = u32;
        type Reply = (u32, usize);

        async fn handle(&mut self, mut batch: Vec<u32>, arrivals: &mut Arrivals<'_, Self>) -> Vec<(u32, usize)> {
            self.0.0.acquire().await.expect("open").forget();
            while let Some(number) = arrivals.next_if(|number| number % 2 == 0) {
                batch.push(number);
            }
            let size = batch.len();
            batch.into_iter().map(|number| (number, size)).collect()
        }
    }

    #[tokio::test]
    async fn a_cancelled_request_is_not_started() {
        let (gate, batcher) = start(64);
        let first = batcher.submit(0);
        tokio::pin!(first);
        assert!(first.as_mut().now_or_never().is_none());
        taken(&batcher).await;
        assert!(batcher.submit(1).now_or_never().is_none(), "the request is queued, then cancelled");
        let last = batcher.submit(2);
        tokio::pin!(last);
        assert!(last.as_mut().now_or_never().is_none());
        gate.add_permits(2);
        assert_eq!(first.await, Ok((0, 1)));
        assert_eq!(last.await, Ok((2, 1)));
    }

    #[tokio::test]
    async fn requests_join_in_order_until_one_is_not_allowed() {
        let gate = Arc::new(Semaphore::new(0));
        let batcher = Batcher::spawn(&Handle::current(), Even(Sizes(gate.clone())), 64, 64);
        let all = futures_util::future::join_all([0, 2, 4, 5, 6, 7].map(|number| batcher.submit(number)));
        let first = batcher.submit(1);
        tokio::pin!(first, all);
        assert!(first.as_mut().now_or_never().is_none());
        taken(&batcher).await;
        assert!(all.as_mut().now_or_never().is_none());
        gate.add_permits(2);
        assert_eq!(first.await, Ok((1, 4)));
        let expected = [(0, 4), (2, 4), (4, 4), (5, 3), (6, 3), (7, 3)];
        assert_eq!(all.await, expected.map(Ok));
    }

    /// Returns each number at once and handles it again in each following batch, until it is zero.
    struct Countdown(Vec<u32>, mpsc::UnboundedSender<usize>);

    impl OpenHandler for Countdown {
        type Request = u32;
        type Reply = u32;

        async fn handle(&mut self, batch: Vec<u32>, _: &mut Arrivals<'_, Self>) -> Vec<u32> {
            self.1.send(batch.len()).expect("open");
            self.0 = self.0.iter().chain(&batch).filter_map(|number| number.checked_sub(1)).collect();
            batch
        }

        fn wake_at(&self) -> Option<Instant> {
            (!self.0.is_empty()).then(Instant::now)
        }
    }

    #[tokio::test]
    async fn a_handler_with_work_left_is_called_without_a_request() {
        let (sender, mut sizes) = mpsc::unbounded_channel();
        let batcher = Batcher::spawn(&Handle::current(), Countdown(Vec::new(), sender), 64, 64);
        for number in [0, 2, 0] {
            assert_eq!(batcher.submit(number).await, Ok(number));
            for size in std::iter::once(1).chain((0..number).map(|_| 0)) {
                assert_eq!(sizes.recv().await, Some(size));
            }
        }
        drop(batcher);
        assert_eq!(sizes.recv().await, None, "it is not called without work");
    }

    /// Each number is its own weight.
    struct Weighted(Sizes);

    impl Handler for Weighted {
        type Request = u32;
        type Reply = (u32, usize);

        async fn handle(&mut self, batch: Vec<u32>) -> Vec<(u32, usize)> {
            Handler::handle(&mut self.0, batch).await
        }

        fn weight(number: &u32) -> usize {
            *number as usize
        }
    }

    #[tokio::test]
    async fn the_requests_of_a_batch_have_a_maximum_weight() {
        let gate = Arc::new(Semaphore::new(0));
        let batcher = Batcher::spawn(&Handle::current(), Weighted(Sizes(gate.clone())), 64, 10);
        let first = batcher.submit(1);
        let rest = futures_util::future::join_all([4, 6, 2, 11, 3].map(|number| batcher.submit(number)));
        tokio::pin!(first, rest);
        assert!(first.as_mut().now_or_never().is_none());
        taken(&batcher).await;
        assert!(rest.as_mut().now_or_never().is_none());
        gate.add_permits(5);
        assert_eq!(first.await, Ok((1, 1)));
        assert_eq!(rest.await, [(4, 2), (6, 2), (2, 1), (11, 1), (3, 1)].map(Ok));
    }

    #[tokio::test]
    async fn a_full_queue_rejects_at_once() {
        let (_gate, batcher) = start(1);
        let first = batcher.submit(0);
        tokio::pin!(first);
        assert!(first.as_mut().now_or_never().is_none());
        assert_eq!(batcher.submit(1).await, Err(BatchError::Overloaded));
    }

    #[tokio::test]
    async fn a_panic_loses_only_its_own_batch() {
        let (gate, batcher) = start(64);
        gate.add_permits(2);
        assert_eq!(batcher.submit(13).await, Err(BatchError::Lost));
        assert_eq!(batcher.submit(1).await, Ok((1, 1)));
    }
}
