//! One timer for all the deadlines of a connection.

use std::{
    pin::{Pin, pin},
    task::{Context, Poll, ready},
};

use tokio::{
    task::coop::unconstrained,
    time::{Instant, Sleep, sleep_until},
};

/// A timer that one deadline after another reuses. It is reset only if it would fire too late; if it fires early, it is
/// set again. It is therefore set about once per request timeout instead of once per request.
///
/// It fires even if its task has used up its budget of operations, on which tokio's own timers wait. A task that always
/// finds something to read would otherwise never see its deadline.
pub struct ReusableTimer(Pin<Box<Sleep>>);

impl ReusableTimer {
    /// Creates a timer that is set to a first deadline.
    #[must_use]
    pub fn new(at: Instant) -> Self {
        Self(Box::pin(sleep_until(at)))
    }

    /// Waits for a deadline.
    pub fn poll(&mut self, cx: &mut Context<'_>, at: Instant) -> Poll<()> {
        if self.0.deadline() > at {
            self.0.as_mut().reset(at);
        }
        loop {
            ready!(pin!(unconstrained(self.0.as_mut())).poll(cx));
            if self.0.deadline() >= at {
                return Poll::Ready(());
            }
            self.0.as_mut().reset(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, time::Duration};

    use tokio::task::coop::{has_budget_remaining, poll_proceed};

    use super::*;

    #[tokio::test]
    async fn fires_in_a_task_without_a_budget() {
        let at = Instant::now();
        let mut timer = ReusableTimer::new(at);
        tokio::time::sleep(Duration::from_millis(2)).await;
        poll_fn(|cx| {
            while has_budget_remaining() {
                if let Poll::Ready(spent) = poll_proceed(cx) {
                    spent.made_progress();
                }
            }
            assert!(timer.poll(cx, at).is_ready());
            Poll::Ready(())
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn fires_at_the_deadline_whatever_it_was_set_to_before() {
        let started = Instant::now();
        let seconds = |count| started + Duration::from_secs(count);
        let mut timer = ReusableTimer::new(seconds(5));
        for at in [7, 9, 10, 30] {
            poll_fn(|cx| {
                assert!(timer.poll(cx, seconds(100)).is_pending());
                timer.poll(cx, seconds(at))
            })
            .await;
            assert_eq!(Instant::now().duration_since(seconds(at)).as_secs(), 0);
        }
    }
}
