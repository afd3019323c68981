//! A watch that goes on whatever happens: it begins anew after each failure, slower the longer it fails.

use std::{
    fmt::Debug,
    time::{Duration, Instant},
};

use futures_util::{Stream, StreamExt, stream};
use kube::{
    Api, Config, Resource,
    runtime::watcher::{self, Event, watcher},
};
use prometheus::IntCounter;
use rand::Rng;
use serde::de::DeserializeOwned;
use tokio::time;

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
/// A failure this long after the one before is the first of others.
const CALM: Duration = Duration::from_mins(1);
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
pub(super) fn watch<K>(api: Api<K>, resource: &'static str, failures: IntCounter) -> impl Stream<Item = Event<K>> + Send
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let config = watcher::Config::default().timeout(WATCH).page_size(PAGE);
    stream::unfold((Box::pin(watcher(api, config)), Pauses::default()), move |(mut events, mut pauses)| {
        let failures = failures.clone();
        async move {
            loop {
                match events.next().await? {
                    Ok(event) => {
                        // A list that was begun is not yet one that ended.
                        if !matches!(event, Event::Init) {
                            pauses.end();
                        }
                        return Some((event, (events, pauses)));
                    }
                    Err(error) => {
                        failures.inc();
                        let (pause, log) = pauses.next(Instant::now());
                        if log {
                            let error = anyhow::Error::from(error);
                            tracing::warn!(resource, "cannot watch, what was known last stays in use: {error:#}");
                        }
                        time::sleep(pause).await;
                    }
                }
            }
        }
    })
}

/// The pauses between attempts.
#[derive(Default)]
struct Pauses {
    in_a_row: u32,
    last: Option<Instant>,
    logged: Option<Instant>,
}

impl Pauses {
    /// How long to wait after a failure, and whether it is to be logged.
    fn next(&mut self, now: Instant) -> (Duration, bool) {
        let after = |then: Option<Instant>, time| then.is_none_or(|then| now.duration_since(then) >= time);
        if after(self.last, CALM) {
            self.end();
        }
        let log = after(self.logged, LOG_INTERVAL);
        if log {
            self.logged = Some(now);
        }
        self.last = Some(now);
        let pause = SHORTEST_PAUSE.saturating_mul(2_u32.saturating_pow(self.in_a_row)).min(LONGEST_PAUSE);
        self.in_a_row = self.in_a_row.saturating_add(1);
        // Many gateways are not to come back at once.
        (pause.mul_f64(rand::rng().random_range(0.5..=1.0)), log)
    }

    /// It works again.
    fn end(&mut self) {
        self.in_a_row = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use k8s_openapi::api::core::v1::Service;
    use kube::Client;
    use tokio::{io::AsyncReadExt, net::TcpListener};

    /// One that takes connections and requests, and says nothing. The clock goes as fast as nobody has anything to do.
    #[tokio::test(start_paused = true)]
    async fn an_api_server_that_is_silent_counts_as_a_failure() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let mut config = Config::new(url.parse().expect("a URL"));
        limit(&mut config);
        let api = Api::<Service>::default_namespaced(Client::try_from(config).expect("a client"));
        let failures = IntCounter::new("failures", "of the test").expect("a counter");
        let mut watching = Box::pin(watch(api, "services", failures.clone()));
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
    fn pauses_grow_up_to_a_bound_and_are_short_again_after_calm() {
        let (mut pauses, begin) = (Pauses::default(), Instant::now());
        let mut pause = |after: u64| pauses.next(begin + Duration::from_secs(after)).0;
        assert!(pause(0) <= SHORTEST_PAUSE);
        for _ in 0..40 {
            pause(1);
        }
        assert!(pause(2) >= LONGEST_PAUSE / 2 && pause(3) <= LONGEST_PAUSE);
        assert!(pause(3 + CALM.as_secs()) <= SHORTEST_PAUSE);
    }

    #[test]
    fn an_outage_is_logged_once_a_minute() {
        let (mut pauses, begin) = (Pauses::default(), Instant::now());
        let logged: Vec<u64> = (0..150).filter(|after| pauses.next(begin + Duration::from_secs(*after)).1).collect();
        assert_eq!(logged, [0, 60, 120]);
    }
}
