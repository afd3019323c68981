//! A watch that never ends: it restarts after each failure, with exponential backoff.

use std::{
    fmt::Debug,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::anyhow;
use futures_util::{Stream, StreamExt, stream};
use http::Request;
use kube::{
    Api, Client, Config, Resource,
    client::Body,
    core::NamespaceResourceScope,
    runtime::watcher::{self, Event, watcher},
};
use prometheus::IntCounter;
use rand::Rng;
use serde::de::DeserializeOwned;
use tokio::time::{self, Instant};
use tower::service_fn;

/// How long the API server keeps a watch open, in seconds.
const WATCH_SECONDS: u32 = 30;
/// A connection that stays silent for longer than a watch lasts is considered dead: the end of the watch may have been
/// lost, for instance together with a node.
const READ_TIMEOUT: Duration = Duration::from_secs(35);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Objects per page of a list. A page takes several times as much memory as what is kept of it.
const PAGE_SIZE: u32 = 100;

/// The first and the longest pause after a failure. They are short so that a restart of the API server is noticed soon
/// after it is back.
const MIN_PAUSE: Duration = Duration::from_millis(50);
const MAX_PAUSE: Duration = Duration::from_secs(2);
/// A watch that lasts at least this long has worked: its end is not a failure, and the backoff is reset.
const HEALTHY_AFTER: Duration = Duration::from_secs(1);
/// How often continued failures are logged.
const LOG_INTERVAL: Duration = Duration::from_mins(1);

/// Sets the timeouts of the client. Without them, a watch of an API server that went silent would hang forever.
pub(super) fn set_timeouts(config: &mut Config) {
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    config.read_timeout = Some(READ_TIMEOUT);
    config.write_timeout = Some(READ_TIMEOUT);
    // The read timeout must not include the time that the connection was idle before.
    config.reset_reader_on_write = true;
    // The watch retries by itself.
    config.default_retry = false;
}

/// Watches all objects of a kind, forever.
pub(super) fn watch<K>(
    client: &Client,
    namespace: &str,
    resource: &'static str,
    failures: IntCounter,
) -> impl Stream<Item = Event<K>> + Send + use<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let attempts = Attempts { resource, failures, backoff: Arc::default() };
    let api = Api::<K>::namespaced(attempts.observe(client.clone()), namespace);
    let config = watcher::Config::default().timeout(WATCH_SECONDS).page_size(PAGE_SIZE);
    stream::unfold((Box::pin(watcher(api, config)), attempts), |(mut events, attempts)| async move {
        loop {
            match events.next().await? {
                Ok(event) => return Some((event, (events, attempts))),
                Err(error) => attempts.failed(error.into()).await,
            }
        }
    })
}

/// The attempts to watch one kind of object.
#[derive(Clone)]
struct Attempts {
    resource: &'static str,
    failures: IntCounter,
    backoff: Arc<Mutex<Backoff>>,
}

impl Attempts {
    /// Records a failure and waits until the next attempt is due.
    async fn failed(&self, error: anyhow::Error) {
        self.failures.inc();
        let (pause, log) = self.backoff().next(Instant::now());
        if log {
            let error = format_args!("{error:#}");
            tracing::warn!(resource = self.resource, %error, "cannot watch the API server; keeping the last known state");
        }
        time::sleep(pause).await;
    }

    /// Wraps a client so that the start and end of its watches are recorded.
    ///
    /// `watcher` does not report the end of a watch and starts the next one at once, however short the last one was. So
    /// the wrapped client delays a watch whose predecessor ended immediately.
    fn observe(&self, client: Client) -> Client {
        let (attempts, namespace) = (self.clone(), client.default_namespace().to_owned());
        let send = move |request: Request<Body>| {
            let (attempts, client) = (attempts.clone(), client.clone());
            async move {
                if !request.uri().query().is_some_and(|query| query.contains("watch=true")) {
                    return client.send(request).await;
                }
                let was_healthy = attempts.backoff().watch_ended(Instant::now());
                if !was_healthy {
                    attempts.failed(anyhow!("the API server ended the watch immediately")).await;
                }
                let response = client.send(request).await?;
                if response.status().is_success() {
                    attempts.backoff().watch_started(Instant::now());
                }
                Ok(response)
            }
        };
        Client::new(service_fn(send), namespace)
    }

    fn backoff(&self) -> MutexGuard<'_, Backoff> {
        self.backoff.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Computes the pauses between attempts.
#[derive(Default)]
struct Backoff {
    consecutive_failures: u32,
    /// When the current watch started.
    watching_since: Option<Instant>,
    last_logged: Option<Instant>,
}

impl Backoff {
    fn watch_started(&mut self, now: Instant) {
        self.watching_since = Some(now);
    }

    /// Records the end of the current watch, if there is one. Returns false if that counts as a failure.
    fn watch_ended(&mut self, now: Instant) -> bool {
        let Some(since) = self.watching_since.take() else { return true };
        let was_healthy = now.duration_since(since) >= HEALTHY_AFTER;
        if was_healthy {
            self.consecutive_failures = 0;
        }
        was_healthy
    }

    /// Returns how long to wait after a failure, and whether to log it.
    fn next(&mut self, now: Instant) -> (Duration, bool) {
        self.watch_ended(now);
        let log = self.last_logged.is_none_or(|then| now.duration_since(then) >= LOG_INTERVAL);
        if log {
            self.last_logged = Some(now);
        }
        let pause = MIN_PAUSE.saturating_mul(2_u32.saturating_pow(self.consecutive_failures)).min(MAX_PAUSE);
        self.consecutive_failures = self.consecutive_failures.saturating_add(1);
        // Jitter keeps many gateways from reconnecting at the same moment.
        (pause.mul_f64(rand::rng().random_range(0.5..=1.0)), log)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use k8s_openapi::api::core::v1::Service;
    use tokio::{io::AsyncReadExt, net::TcpListener};

    /// The server accepts connections and reads requests, but never responds. The paused clock advances whenever all
    /// tasks are idle.
    #[tokio::test(start_paused = true)]
    async fn a_silent_api_server_is_a_failure() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let mut config = Config::new(url.parse().expect("a URL"));
        set_timeouts(&mut config);
        let client = Client::try_from(config).expect("a client");
        let failures = IntCounter::new("failures", "of the test").expect("a counter");
        let mut watching = Box::pin(watch::<Service>(&client, "default", "services", failures.clone()));
        assert!(matches!(watching.next().await, Some(Event::Init)));
        let watching = tokio::spawn(async move { watching.next().await });
        let (mut connection, _) = listener.accept().await.expect("a connection");
        let mut head = [0; 1024];
        assert!(connection.read(&mut head).await.expect("a request") > 0);
        let start = time::Instant::now();
        while failures.get() == 0 {
            assert!(start.elapsed() <= READ_TIMEOUT + Duration::from_secs(2), "the read timeout did not fire");
            time::sleep(Duration::from_secs(1)).await;
        }
        watching.abort();
    }

    #[test]
    fn backoff_grows_to_a_maximum_and_a_healthy_watch_resets_it() {
        let (mut backoff, start) = (Backoff::default(), Instant::now());
        assert!(backoff.next(start).0 <= MIN_PAUSE);
        for _ in 0..40 {
            backoff.next(start);
        }
        let mut pause_after_watch_of = |time: Duration| {
            backoff.watch_started(start);
            backoff.next(start + time).0
        };
        let pause = pause_after_watch_of(HEALTHY_AFTER / 2);
        assert!(pause >= MAX_PAUSE / 2 && pause <= MAX_PAUSE, "{pause:?}");
        assert!(pause_after_watch_of(HEALTHY_AFTER) <= MIN_PAUSE);
    }

    #[test]
    fn an_outage_is_logged_once_a_minute() {
        let (mut backoff, start) = (Backoff::default(), Instant::now());
        let logged: Vec<u64> = (0..150).filter(|after| backoff.next(start + Duration::from_secs(*after)).1).collect();
        assert_eq!(logged, [0, 60, 120]);
    }
}
