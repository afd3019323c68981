//! A timer for hyper, which creates and drops one for each request of an HTTP/1 connection.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use hyper::rt::{Sleep, Timer};
use tokio::time;

use crate::timer::ReusableTimer;

/// Creates timers that share one [`ReusableTimer`]: hyper waits for only one at a time on a connection.
pub(super) struct ConnectionTimer(Arc<Mutex<ReusableTimer>>);

impl ConnectionTimer {
    /// Creates the timer of a connection, set to the timeout of its first request.
    pub(super) fn new(limit: Duration) -> Self {
        Self(Arc::new(Mutex::new(ReusableTimer::new(time::Instant::now() + limit))))
    }
}

impl Timer for ConnectionTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        self.sleep_until(self.now() + duration)
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        Box::pin(Until { timer: self.0.clone(), at: deadline.into() })
    }

    fn now(&self) -> Instant {
        time::Instant::now().into_std()
    }
}

struct Until {
    timer: Arc<Mutex<ReusableTimer>>,
    at: time::Instant,
}

impl Future for Until {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.timer.lock().unwrap_or_else(PoisonError::into_inner).poll(cx, self.at)
    }
}

impl Sleep for Until {}
