//! The clock of a connection, for all the time limits of its requests.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::time::{Instant, Sleep, sleep_until};

/// A timer that is left as it was set for an earlier request, as long as it does not end too late: when it ends early it
/// is set again. So it is set once in the time that a request may take, and not for each of them.
pub struct Alarm(Pin<Box<Sleep>>);

impl Alarm {
    /// A timer, set to a time at which a request may end.
    #[must_use]
    pub fn new(at: Instant) -> Self {
        Self(Box::pin(sleep_until(at)))
    }

    /// Waits for a time.
    pub fn poll(&mut self, cx: &mut Context<'_>, at: Instant) -> Poll<()> {
        if self.0.deadline() > at {
            self.0.as_mut().reset(at);
        }
        loop {
            ready!(self.0.as_mut().poll(cx));
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

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_ends_at_the_time_of_the_request_whatever_it_was_set_to_before() {
        let begun = Instant::now();
        let seconds = |count| begun + Duration::from_secs(count);
        let mut alarm = Alarm::new(seconds(5));
        for at in [7, 9, 10, 30] {
            poll_fn(|cx| {
                assert!(alarm.poll(cx, seconds(100)).is_pending());
                alarm.poll(cx, seconds(at))
            })
            .await;
            assert_eq!(Instant::now().duration_since(seconds(at)).as_secs(), 0);
        }
    }
}
