//! The database servers: which of them respond, and how many reconciles use each of them at a time.
//!
//! A login to a server that does not respond takes as long as its timeout. If every object found that out for itself,
//! the objects of one such server would keep all others waiting. So the failure is remembered for all of them, and one
//! login at a time, in the background, finds out whether the server is back.

use std::{
    collections::{BTreeMap, HashMap},
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use k8s_openapi::ByteString;
use tokio::{
    sync::{Semaphore, SemaphorePermit, watch},
    time::{self, Instant},
};

use super::conditions::ConditionResult;
use crate::database::{Error, Server};

/// How long a reconcile waits for a server. A healthy one responds within milliseconds.
const PATIENCE: Duration = Duration::from_secs(1);

/// The wait before a server that failed is tried again is a quarter of the time that it has been failing.
const MIN_RETRY: Duration = Duration::from_secs(1);
const MAX_RETRY: Duration = Duration::from_secs(15);
const DIVISOR: u32 = 4;

/// The servers that objects use.
pub(crate) struct Servers {
    /// By a hash of URL and CA certificates. A server whose Secret changes is another one, with no failure yet.
    access: Mutex<HashMap<u64, Arc<Access>>>,
    /// How many reconciles may use one server at a time.
    limit: usize,
}

impl Servers {
    /// Objects of one server take at most half of the reconciles that may run concurrently.
    pub(crate) fn new(concurrency: u16) -> Self {
        Self { access: Mutex::default(), limit: usize::from(concurrency.div_ceil(2)) }
    }

    /// The access to the server that the data of a Secret describe.
    pub(crate) fn access(&self, data: &BTreeMap<String, ByteString>) -> Arc<Access> {
        let mut hasher = DefaultHasher::new();
        for key in ["url", "uri", "ca.crt"] {
            data.get(key).map(|value| &value.0).hash(&mut hasher);
        }
        let mut all = self.access.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry(hasher.finish()).or_insert_with(|| Arc::new(Access::new(self.limit))).clone()
    }
}

/// The access to one server.
pub(crate) struct Access {
    permits: Semaphore,
    state: watch::Sender<State>,
}

#[derive(Default)]
struct State {
    health: Health,
    /// Whether a login finds out the health at this moment.
    probing: bool,
}

#[derive(Default, Clone)]
enum Health {
    #[default]
    Unknown,
    Good,
    Bad {
        result: ConditionResult,
        since: Instant,
        retry_at: Instant,
    },
}

impl Access {
    fn new(limit: usize) -> Self {
        Self { permits: Semaphore::new(limit), state: watch::Sender::default() }
    }

    /// Waits for a moment until the server can be used, and fails if it cannot.
    pub(crate) async fn enter(self: &Arc<Self>, server: &Server) -> Result<SemaphorePermit<'_>, ConditionResult> {
        self.check_health(server).await?;
        match time::timeout(PATIENCE, self.permits.acquire()).await {
            Ok(Ok(permit)) => Ok(permit),
            _ => Err(ConditionResult::pending(
                "ServerBusy",
                format!("waiting for other objects that use the database server {server}"),
            )),
        }
    }

    async fn check_health(self: &Arc<Self>, server: &Server) -> Result<(), ConditionResult> {
        let mut state = self.state.subscribe();
        let started = self.start_probe(server);
        let remembered = match &state.borrow_and_update().health {
            Health::Good => return Ok(()),
            // Only the reconcile that tries again waits for the result.
            Health::Bad { result, .. } if !started => return Err(result.clone()),
            Health::Bad { result, .. } => result.clone(),
            Health::Unknown => {
                let message = format!("the database server {server} has not responded yet");
                ConditionResult::pending("ServerUnreachable", message)
            }
        };
        match time::timeout(PATIENCE, state.wait_for(|state| !state.probing)).await {
            Ok(Ok(state)) => match &state.health {
                Health::Bad { result, .. } => Err(result.clone()),
                _ => Ok(()),
            },
            _ => Err(remembered),
        }
    }

    /// Starts a login in the background if the health is not known or may have changed. Returns whether it did.
    fn start_probe(self: &Arc<Self>, server: &Server) -> bool {
        let started = self.state.send_if_modified(|state| {
            let is_due = match &state.health {
                Health::Good => false,
                Health::Unknown => true,
                Health::Bad { retry_at, .. } => Instant::now() >= *retry_at,
            };
            let start = is_due && !state.probing;
            state.probing |= start;
            start
        });
        if started {
            let (access, server) = (self.clone(), server.clone());
            tokio::spawn(async move {
                let result = server.probe().await;
                access.state.send_modify(|state| {
                    state.probing = false;
                    match result {
                        Ok(()) => state.health = Health::Good,
                        Err(error) => state.health.fail(error),
                    }
                });
            });
        }
        started
    }

    /// Remembers that the admin could not log in.
    pub(crate) fn login_failed(&self, error: &Error) {
        if error.is_about_login() {
            self.state.send_modify(|state| state.health.fail(error.clone()));
        }
    }

    /// Makes the next reconcile find out whether the server still responds, if `error` leaves that open. A service can
    /// make its own database slow, so a timeout there is not a failure of the server.
    pub(crate) fn interrupted(&self, error: &Error) {
        if error.is_about_login() {
            self.state.send_modify(|state| {
                if matches!(state.health, Health::Good) {
                    state.health = Health::Unknown;
                }
            });
        }
    }
}

impl Health {
    fn fail(&mut self, error: Error) {
        let now = Instant::now();
        let since = match self {
            Self::Bad { since, .. } => *since,
            Self::Unknown | Self::Good => now,
        };
        let retry_at = now + (now.duration_since(since) / DIVISOR).clamp(MIN_RETRY, MAX_RETRY);
        *self = Self::Bad { result: error.into(), since, retry_at };
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// A server that accepts connections and says nothing.
    async fn silent() -> (TcpListener, Server) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let server = Server::new(&format!("postgres://admin:x@127.0.0.1:{port}/postgres"), None).expect("a server");
        (listener, server)
    }

    #[tokio::test]
    async fn a_silent_server_is_tried_once_for_all_objects() {
        let (listener, server) = silent().await;
        let access = Arc::new(Access::new(4));
        let begin = Instant::now();
        let waits = (0..100).map(|_| access.enter(&server));
        let refused = futures_util::future::join_all(waits).await.into_iter().filter(Result::is_err).count();
        assert_eq!(refused, 100);
        assert!(begin.elapsed() < Duration::from_secs(2), "they wait together: {:?}", begin.elapsed());

        let mut state = access.state.subscribe();
        let tried = state.wait_for(|state| !state.probing);
        drop(time::timeout(Duration::from_secs(20), tried).await.expect("the login times out").expect("a state"));
        let begin = Instant::now();
        let refusal = access.enter(&server).await.err().expect("a refusal");
        assert!(begin.elapsed() < PATIENCE, "the failure is remembered: {:?}", begin.elapsed());
        assert!(refusal.text().1.ends_with("no response within 5 s"), "{refusal:?}");

        let mut connections = 0;
        while time::timeout(Duration::from_millis(50), listener.accept()).await.is_ok() {
            connections += 1;
        }
        assert_eq!(connections, 1);
    }

    #[tokio::test]
    async fn a_busy_server_does_not_hold_up_reconciles() {
        let (_listener, server) = silent().await;
        let access = Arc::new(Access::new(1));
        access.state.send_modify(|state| state.health = Health::Good);
        let permit = access.enter(&server).await.expect("a permit");
        let begin = Instant::now();
        assert_eq!(access.enter(&server).await.err().expect("a refusal").text().0, "ServerBusy");
        assert!(begin.elapsed() < PATIENCE * 4, "{:?}", begin.elapsed());
        drop(permit);
        assert!(access.enter(&server).await.is_ok());
    }

    #[test]
    fn a_server_is_the_content_of_its_secret() {
        let secret = |url: &str| BTreeMap::from([("url".to_owned(), ByteString(url.as_bytes().to_vec()))]);
        let servers = Servers::new(8);
        let first = servers.access(&secret("postgres://a:b@one"));
        assert!(Arc::ptr_eq(&first, &servers.access(&secret("postgres://a:b@one"))), "whatever the Secret's name");
        assert!(!Arc::ptr_eq(&first, &servers.access(&secret("postgres://a:c@one"))), "the password was corrected");
    }
}
