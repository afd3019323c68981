//! The clock of an HTTP/1 connection, for hyper, which makes and drops a timer for each request.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use hyper::rt::{Sleep, Timer};
use tokio::time;

use crate::alarm::Alarm;

/// Timers that are all one [`Alarm`]: of a connection, only one is waited for at a time.
pub(super) struct ConnectionTimer(Arc<Mutex<Alarm>>);

impl ConnectionTimer {
    /// That of a connection whose first request may take so long to come.
    pub(super) fn new(limit: Duration) -> Self {
        Self(Arc::new(Mutex::new(Alarm::new(time::Instant::now() + limit))))
    }
}

impl Timer for ConnectionTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        self.sleep_until(self.now() + duration)
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        Box::pin(Until { alarm: self.0.clone(), at: deadline.into() })
    }

    fn now(&self) -> Instant {
        time::Instant::now().into_std()
    }
}

struct Until {
    alarm: Arc<Mutex<Alarm>>,
    at: time::Instant,
}

impl Future for Until {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.alarm.lock().unwrap_or_else(PoisonError::into_inner).poll(cx, self.at)
    }
}

impl Sleep for Until {}
