//! A watch that goes on whatever happens: it begins anew after each failure, slower the longer it fails.

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

/// How long the API server keeps a watch before it is begun anew, in seconds. One that is silent for a little longer is
/// taken for dead: its end may have been lost, with a node for instance.
const WATCH: u32 = 30;
const SILENCE: Duration = Duration::from_secs(35);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Objects that are listed at once: what a page takes in memory is a multiple of what is kept of it.
const PAGE: u32 = 100;

/// The first pause after a failure, and the longest. A restart of the API server is to be noticed soon after its end.
const SHORTEST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// A watch that lasts this long is one that works: what failed before is over, and its end is no failure.
const WELL: Duration = Duration::from_secs(1);
/// While it fails again and again, it is logged this often.
const LOG_INTERVAL: Duration = Duration::from_mins(1);

/// Sets limits to what the API server may take, or a watch of one that is silent would hang for good.
pub(super) fn limit(config: &mut Config) {
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    config.read_timeout = Some(SILENCE);
    config.write_timeout = Some(SILENCE);
    // The time that a connection was idle before is not part of it.
    config.reset_reader_on_write = true;
    // The watch itself begins anew.
    config.default_retry = false;
}

/// Watches all objects of a kind, for good.
pub(super) fn watch<K>(
    client: &Client,
    namespace: &str,
    resource: &'static str,
    failures: IntCounter,
) -> impl Stream<Item = Event<K>> + Send + use<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let attempts = Attempts { resource, failures, pauses: Arc::default() };
    let api = Api::<K>::namespaced(attempts.noted_by(client.clone()), namespace);
    let config = watcher::Config::default().timeout(WATCH).page_size(PAGE);
    stream::unfold((Box::pin(watcher(api, config)), attempts), |(mut events, attempts)| async move {
        loop {
            match events.next().await? {
                Ok(event) => return Some((event, (events, attempts))),
                Err(error) => attempts.failed(error.into()).await,
            }
        }
    })
}

/// The attempts to watch one kind of objects.
#[derive(Clone)]
struct Attempts {
    resource: &'static str,
    failures: IntCounter,
    pauses: Arc<Mutex<Pauses>>,
}

impl Attempts {
    /// Notes a failure, and waits for as long as is due after it.
    async fn failed(&self, error: anyhow::Error) {
        self.failures.inc();
        let (pause, log) = self.pauses().next(Instant::now());
        if log {
            tracing::warn!(self.resource, "cannot watch, what was known last stays in use: {error:#}");
        }
        time::sleep(pause).await;
    }

    /// A client whose watches are noted. The end of a watch, however soon it comes, is nothing that `watcher` tells: it
    /// begins the next one at once. So it is here that a watch has to wait if the one before was over in no time.
    fn noted_by(&self, client: Client) -> Client {
        let (attempts, namespace) = (self.clone(), client.default_namespace().to_owned());
        let send = move |request: Request<Body>| {
            let (attempts, client) = (attempts.clone(), client.clone());
            async move {
                if !request.uri().query().is_some_and(|query| query.contains("watch=true")) {
                    return client.send(request).await;
                }
                let ended_well = attempts.pauses().end(Instant::now());
                if !ended_well {
                    attempts.failed(anyhow!("the watch has ended at once")).await;
                }
                let response = client.send(request).await?;
                if response.status().is_success() {
                    attempts.pauses().begin(Instant::now());
                }
                Ok(response)
            }
        };
        Client::new(service_fn(send), namespace)
    }

    fn pauses(&self) -> MutexGuard<'_, Pauses> {
        self.pauses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The pauses between attempts.
#[derive(Default)]
struct Pauses {
    in_a_row: u32,
    /// When the watch began that goes on.
    watching: Option<Instant>,
    logged: Option<Instant>,
}

impl Pauses {
    /// A watch has begun.
    fn begin(&mut self, now: Instant) {
        self.watching = Some(now);
    }

    /// The watch has ended, if one was going on: whether that was no failure.
    fn end(&mut self, now: Instant) -> bool {
        let Some(since) = self.watching.take() else { return true };
        let is_well = now.duration_since(since) >= WELL;
        if is_well {
            self.in_a_row = 0;
        }
        is_well
    }

    /// How long to wait after a failure, and whether it is to be logged.
    fn next(&mut self, now: Instant) -> (Duration, bool) {
        self.end(now);
        let log = self.logged.is_none_or(|then| now.duration_since(then) >= LOG_INTERVAL);
        if log {
            self.logged = Some(now);
        }
        let pause = SHORTEST_PAUSE.saturating_mul(2_u32.saturating_pow(self.in_a_row)).min(LONGEST_PAUSE);
        self.in_a_row = self.in_a_row.saturating_add(1);
        // Many gateways are not to come back at once.
        (pause.mul_f64(rand::rng().random_range(0.5..=1.0)), log)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use k8s_openapi::api::core::v1::Service;
    use tokio::{io::AsyncReadExt, net::TcpListener};

    /// One that takes connections and requests, and says nothing. The clock goes as fast as nobody has anything to do.
    #[tokio::test(start_paused = true)]
    async fn an_api_server_that_is_silent_counts_as_a_failure() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let mut config = Config::new(url.parse().expect("a URL"));
        limit(&mut config);
        let client = Client::try_from(config).expect("a client");
        let failures = IntCounter::new("failures", "of the test").expect("a counter");
        let mut watching = Box::pin(watch::<Service>(&client, "default", "services", failures.clone()));
        assert!(matches!(watching.next().await, Some(Event::Init)));
        let watching = tokio::spawn(async move { watching.next().await });
        let (mut connection, _) = listener.accept().await.expect("a connection");
        let mut head = [0; 1024];
        assert!(connection.read(&mut head).await.expect("a request") > 0);
        let begun = time::Instant::now();
        while failures.get() == 0 {
            assert!(begun.elapsed() <= SILENCE + Duration::from_secs(2), "it waits for an answer");
            time::sleep(Duration::from_secs(1)).await;
        }
        watching.abort();
    }

    #[test]
    fn pauses_grow_up_to_a_bound_and_are_short_again_after_a_watch_that_lasts() {
        let (mut pauses, begin) = (Pauses::default(), Instant::now());
        assert!(pauses.next(begin).0 <= SHORTEST_PAUSE);
        for _ in 0..40 {
            pauses.next(begin);
        }
        let mut after_a_watch_of = |time: Duration| {
            pauses.begin(begin);
            pauses.next(begin + time).0
        };
        let brief = after_a_watch_of(WELL / 2);
        assert!(brief >= LONGEST_PAUSE / 2 && brief <= LONGEST_PAUSE, "{brief:?}");
        assert!(after_a_watch_of(WELL) <= SHORTEST_PAUSE);
    }

    #[test]
    fn an_outage_is_logged_once_a_minute() {
        let (mut pauses, begin) = (Pauses::default(), Instant::now());
        let logged: Vec<u64> = (0..150).filter(|after| pauses.next(begin + Duration::from_secs(*after)).1).collect();
        assert_eq!(logged, [0, 60, 120]);
    }
}
