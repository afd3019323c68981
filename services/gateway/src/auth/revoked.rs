//! The sessions that have ended although their access tokens have not expired.
//!
//! # The list of the issuer
//! `GET URL` responds with 200 and the sessions that have ended within the last [`KEEP`], which is longer than any
//! access token of a session is valid:
//! ```json
//! {"sessions": ["01989f3c-7a2e-7000-8000-3f6a0c6e9d11"], "cursor": "184467"}
//! ```
//! `GET URL?after=CURSOR` responds with those that ended after a response with that cursor was made. A cursor is a text
//! of at most 200 letters, digits, hyphens and underscores that only the issuer understands. It may list a session more
//! than once, since transactions do not end in the order of their time stamps, but it must not omit one. If it does not
//! know the cursor, it responds as if there was none. A response has at most 10,000 sessions. One with new sessions is
//! followed by the next request at once, one that repeats 10,000 known ones by a pause of 100 ms, any other by a pause
//! of 5 s.
//!
//! # While the issuer is away
//! The known sessions stay revoked, and others stay valid: their tokens expire within minutes anyway, and a gateway that
//! refused everybody would be an outage that no attacker should be able to cause. A warning is logged once, and
//! `gateway_revocation_failures_total` counts.

use std::{
    collections::{HashSet, VecDeque},
    fs,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use arc_swap::ArcSwap;
use http::{StatusCode, header};
use prometheus::{IntCounter, IntGauge, Registry};
use reqwest::{Client, Url, redirect::Policy};
use runtime::request::chain;
use serde::Deserialize;
use tokio::{
    sync::Notify,
    time::{self, Instant},
};
use uuid::Uuid;

/// The pause between two polls.
const INTERVAL: Duration = Duration::from_secs(5);

/// The pause after a full page without anything new: there may be more, but an issuer that ignores cursors must not be
/// asked without end.
const REPEATED_PAGE_PAUSE: Duration = Duration::from_millis(100);

/// The number of sessions in a full page.
const FULL_PAGE: usize = 10_000;

/// The time limit for one poll.
const TIMEOUT: Duration = Duration::from_secs(5);

/// How long a session is remembered. No access token may be valid for longer.
const KEEP: Duration = Duration::from_hours(1);

/// How many sessions are remembered, which takes about 8 MB. Beyond that, the oldest are forgotten.
const MAX_SESSIONS: usize = 100_000;

/// The maximum size of a response, in bytes: 10,000 sessions take 390 kB.
const MAX_BODY: usize = 1024 * 1024;

/// The maximum length of a cursor, in bytes.
const MAX_CURSOR: usize = 200;

#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct RevocationArgs {
    /// URL of the list of ended sessions, which is read every 5 s, such as `http://users:8080/auth/revoked`. If unset,
    /// the tokens of an ended session are accepted until they expire
    #[arg(long, env, value_name = "URL")]
    pub(crate) auth_revoked_url: Option<Url>,
    /// File with the token for that list. It is read again for each request
    #[arg(long, env, value_name = "FILE", requires = "auth_revoked_url")]
    pub(crate) auth_revoked_token_file: Option<PathBuf>,
}

/// The sessions that have ended.
#[derive(Clone, Default)]
pub(super) struct RevokedSessions(Arc<Published>);

#[derive(Default)]
struct Published {
    sessions: ArcSwap<HashSet<Uuid>>,
    changed: Notify,
}

/// A response of the issuer.
#[derive(Deserialize)]
struct Page {
    sessions: Vec<Uuid>,
    cursor: String,
}

/// Follows the list of the issuer.
struct Poller {
    client: Client,
    url: Url,
    token_file: Option<PathBuf>,
    cursor: Option<String>,
    known: Known,
    published: RevokedSessions,
    count: IntGauge,
    failures: IntCounter,
    is_failing: bool,
}

/// The sessions and when they were learned of, the oldest first.
#[derive(Default)]
struct Known {
    sessions: HashSet<Uuid>,
    order: VecDeque<(Instant, Uuid)>,
}

/// What adding sessions has changed.
#[derive(Debug, Default, PartialEq, Eq)]
struct Change {
    has_added: bool,
    has_removed: bool,
}

impl RevokedSessions {
    /// Starts to follow the list, if there is one.
    ///
    /// # Errors
    /// Returns an error if the HTTP client cannot be created, or if a metric is already registered.
    pub(super) fn follow(args: &RevocationArgs, registry: &Registry) -> anyhow::Result<Self> {
        let published = Self::default();
        let Some(url) = args.auth_revoked_url.clone() else { return Ok(published) };
        let count = IntGauge::new("gateway_revoked_sessions", "Ended sessions whose tokens are refused.")?;
        let failures = IntCounter::new(
            "gateway_revocation_failures_total",
            "Failures to read the list of ended sessions. The sessions known before stay revoked.",
        )?;
        registry.register(Box::new(count.clone()))?;
        registry.register(Box::new(failures.clone()))?;
        let client = Client::builder().redirect(Policy::none()).no_proxy().timeout(TIMEOUT);
        let poller = Poller {
            client: client.build().context("cannot create an HTTP client")?,
            url,
            token_file: args.auth_revoked_token_file.clone(),
            cursor: None,
            known: Known::default(),
            published: published.clone(),
            count,
            failures,
            is_failing: false,
        };
        tokio::spawn(poller.run());
        Ok(published)
    }

    /// Whether a session has ended.
    pub(super) fn contains(&self, session: Uuid) -> bool {
        self.0.sessions.load().contains(&session)
    }

    /// Waits for the next change after this call.
    pub(super) fn changed(&self) -> impl Future<Output = ()> {
        self.0.changed.notified()
    }

    fn publish(&self, sessions: HashSet<Uuid>) {
        self.0.sessions.store(Arc::new(sessions));
        self.0.changed.notify_waiters();
    }
}

impl Poller {
    async fn run(mut self) {
        loop {
            let pause = match self.poll().await {
                Ok(pause) => {
                    if std::mem::take(&mut self.is_failing) {
                        tracing::info!("the list of ended sessions can be read again");
                    }
                    pause
                }
                Err(error) => {
                    self.failures.inc();
                    if !std::mem::replace(&mut self.is_failing, true) {
                        let error = chain(error.as_ref());
                        tracing::warn!(error, "cannot read the list of ended sessions; keeping those known before");
                    }
                    Some(INTERVAL)
                }
            };
            if let Some(pause) = pause {
                time::sleep(pause).await;
            }
        }
    }

    /// Reads what is new. Returns how long to wait before the next poll.
    async fn poll(&mut self) -> anyhow::Result<Option<Duration>> {
        let page = self.read().await?;
        let is_valid = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        ensure!(page.cursor.len() <= MAX_CURSOR && page.cursor.bytes().all(is_valid), "the cursor is invalid");
        self.cursor = Some(page.cursor);
        let is_full = page.sessions.len() >= FULL_PAGE;
        let Change { has_added, has_removed } = self.known.add(page.sessions, Instant::now());
        if has_added || has_removed {
            self.count.set(i64::try_from(self.known.sessions.len()).unwrap_or(i64::MAX));
            self.published.publish(self.known.sessions.clone());
        }
        Ok(if has_added { None } else { Some(if is_full { REPEATED_PAGE_PAUSE } else { INTERVAL }) })
    }

    async fn read(&self) -> anyhow::Result<Page> {
        let mut url = self.url.clone();
        if let Some(cursor) = &self.cursor {
            url.query_pairs_mut().append_pair("after", cursor);
        }
        let mut request = self.client.get(url).header(header::ACCEPT, "application/json");
        if let Some(file) = &self.token_file {
            let token = fs::read_to_string(file).context("cannot read the file with the token")?;
            request = request.bearer_auth(token.trim());
        }
        let mut response = request.send().await.map_err(reqwest::Error::without_url)?;
        ensure!(response.status() == StatusCode::OK, "the response is {}", response.status());
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(reqwest::Error::without_url)? {
            ensure!(body.len() + chunk.len() <= MAX_BODY, "the response is larger than {MAX_BODY} bytes");
            body.extend_from_slice(&chunk);
        }
        serde_json::from_slice(&body).context("the response is invalid")
    }
}

impl Known {
    /// Adds sessions and forgets old ones.
    fn add(&mut self, sessions: Vec<Uuid>, now: Instant) -> Change {
        let mut change = Change::default();
        for session in sessions {
            if self.sessions.insert(session) {
                self.order.push_back((now, session));
                change.has_added = true;
            }
        }
        let is_too_old = |(learned, _): &mut (Instant, Uuid)| now.duration_since(*learned) > KEEP;
        let mut has_overflowed = false;
        while let Some((_, session)) = self.order.pop_front_if(|entry| is_too_old(entry)).or_else(|| {
            let oldest = (self.sessions.len() > MAX_SESSIONS).then(|| self.order.pop_front()).flatten();
            has_overflowed |= oldest.is_some();
            oldest
        }) {
            self.sessions.remove(&session);
            change.has_removed = true;
        }
        if has_overflowed {
            tracing::warn!(
                MAX_SESSIONS,
                "too many sessions have ended; tokens of the oldest are valid until they expire"
            );
        }
        change
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(range: std::ops::Range<usize>) -> Vec<Uuid> {
        range.map(|number| Uuid::from_u128(number as u128)).collect()
    }

    #[test]
    fn sessions_are_forgotten_once_their_tokens_have_expired() {
        let (mut known, start) = (Known::default(), Instant::now());
        let change = |has_added, has_removed| Change { has_added, has_removed };
        assert_eq!(known.add(ids(0..2), start), change(true, false));
        assert_eq!(known.add(ids(0..2), start + KEEP / 2), change(false, false), "they are known already");
        assert_eq!(known.add(ids(2..3), start + KEEP), change(true, false));
        assert_eq!(known.sessions.len(), 3);
        assert_eq!(known.add(Vec::new(), start + KEEP + Duration::from_secs(1)), change(false, true));
        assert_eq!(known.sessions, ids(2..3).into_iter().collect());
        assert_eq!(known.order.len(), 1);
    }

    #[test]
    fn the_number_of_sessions_is_bounded() {
        let (mut known, now) = (Known::default(), Instant::now());
        known.add(ids(0..MAX_SESSIONS), now);
        let change = known.add(ids(MAX_SESSIONS..MAX_SESSIONS + 5), now);
        assert_eq!(change, Change { has_added: true, has_removed: true });
        assert_eq!((known.sessions.len(), known.order.len()), (MAX_SESSIONS, MAX_SESSIONS));
        assert!(!known.sessions.contains(&Uuid::from_u128(4)) && known.sessions.contains(&Uuid::from_u128(5)));
    }
}
