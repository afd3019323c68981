//! The verifier of tokens.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::SystemTime,
};

use anyhow::{Context, bail};
use arc_swap::ArcSwap;
use http::{HeaderMap, HeaderName, header};
use prometheus::Registry;
use runtime::request::chain;
use tokio::time;

use crate::{
    args::{AuthArgs, Mode, Source},
    caller::{Caller, Identity},
    claims::{self, SKEW},
    config::IssuerConfig,
    issuer::{Generation, Issuer, Pace, RunningIssuer},
    key::Algorithm,
    memory::{self, Remembered},
    metrics::{Counters, Metrics},
    refusal::{Reason, Refusal},
    token::{MAX_TOKEN, Parts},
};

/// Verifies the tokens of several issuers. It is cheap to clone.
#[derive(Clone)]
pub struct Verifier(Arc<Inner>);

struct Inner {
    issuers: ArcSwap<Issuers>,
    /// Never goes back to `false`: an issuer that is removed must not open the process.
    required: AtomicBool,
    /// The mode, if it is not left to the issuers.
    mode: Option<Mode>,
    generation: Arc<Generation>,
    metrics: Metrics,
    pace: Pace,
}

type Issuers = HashMap<Box<str>, Arc<RunningIssuer>>;

/// Why a token was not accepted.
enum Failure {
    Refused(Arc<Counters>, Reason),
    /// The key is not among those of the issuer.
    KeyMissing(Arc<Issuer>),
}

impl Verifier {
    /// Starts a verifier. Its tasks, which read the keys of the issuers, run on the current runtime until the last clone
    /// is dropped.
    ///
    /// # Errors
    /// Returns an error if the settings are invalid, or two metrics share a name, which is a bug.
    ///
    /// # Panics
    /// Panics outside of a Tokio runtime.
    pub fn new(args: &AuthArgs, registry: &Registry) -> anyhow::Result<Self> {
        Self::with_pace(args, registry, Pace::default())
    }

    pub(crate) fn with_pace(args: &AuthArgs, registry: &Registry, pace: Pace) -> anyhow::Result<Self> {
        let source = args.source();
        let configs = source.as_ref().map_or(Ok(Vec::new()), |source| source.read(&args.auth_audience))?;
        match (args.auth, &source) {
            (Some(Mode::Required), None | Some(Source::Inline(_))) if configs.is_empty() => {
                bail!("AUTH is required, but AUTH_ISSUERS names no issuer whose tokens could be accepted")
            }
            (None, None | Some(Source::Inline(_))) if configs.is_empty() => tracing::warn!(
                "AUTH is open: requests without a token may do everything; set AUTH_ISSUERS, or AUTH=open to \
                 confirm it"
            ),
            _ => {}
        }
        let verifier = Self(Arc::new(Inner {
            issuers: ArcSwap::default(),
            // A file may have no issuer yet.
            required: AtomicBool::new(matches!(source, Some(Source::File(_)))),
            mode: args.auth,
            generation: Arc::new(Generation::new()),
            metrics: Metrics::new(registry).context("cannot register the metrics of the verifier")?,
            pace,
        }));
        verifier.0.replace(configs.clone())?;
        if let Some(source @ Source::File(_)) = source {
            verifier.follow(source, args.auth_audience.clone(), configs);
        }
        Ok(verifier)
    }

    /// Reads the file of issuers again when it changes. One that is invalid changes nothing.
    fn follow(&self, source: Source, audience: String, mut known: Vec<IssuerConfig>) {
        let inner = Arc::downgrade(&self.0);
        let every = self.0.pace.every_local;
        tokio::spawn(async move {
            let mut failed = false;
            loop {
                time::sleep(every).await;
                let Some(inner) = inner.upgrade() else { return };
                let result = source.read(&audience).and_then(|configs| {
                    if configs != known {
                        inner.replace(configs.clone())?;
                        known = configs;
                        tracing::info!(issuers = known.len(), "issuers read again");
                    }
                    Ok(())
                });
                if let Err(error) = &result
                    && !failed
                {
                    let error = chain(error.as_ref());
                    tracing::error!(error, "the issuers stay as they were");
                }
                failed = result.is_err();
            }
        });
    }

    /// Returns whether requests need a token where a caller is asked for.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.0.mode.unwrap_or_else(|| if self.0.required.load(Ordering::Relaxed) { Mode::Required } else { Mode::Open })
    }

    /// Returns the identity of a request from its `Authorization` header, or `None` if the keys of the token's issuer
    /// have to be read first. Then [`identify`](Self::identify) waits for them.
    ///
    /// Credentials of other schemes than `Bearer` are ignored: such a request is anonymous.
    #[must_use]
    pub fn try_identify(&self, headers: &HeaderMap) -> Option<Result<Identity, Refusal>> {
        self.try_identify_by(headers, &header::AUTHORIZATION)
    }

    /// The same with another header than `Authorization`.
    #[must_use]
    pub fn try_identify_by(&self, headers: &HeaderMap, name: &HeaderName) -> Option<Result<Identity, Refusal>> {
        match self.0.start(headers, name) {
            Ok(result) => Some(result),
            Err(issuer) if issuer.demand().is_some() => None,
            // They may have been read in the meantime.
            Err(_) => Some(self.0.finish(headers, name)),
        }
    }

    /// Returns the identity of a request from its `Authorization` header. Waits up to 5 s if the keys of the token's
    /// issuer have to be read first.
    ///
    /// # Errors
    /// Returns why the request is to be refused: it has a bad token, or several.
    pub async fn identify(&self, headers: &HeaderMap) -> Result<Identity, Refusal> {
        self.identify_by(headers, &header::AUTHORIZATION).await
    }

    /// The same with another header than `Authorization`.
    ///
    /// # Errors
    /// Returns why the request is to be refused: it has a bad token, or several.
    pub async fn identify_by(&self, headers: &HeaderMap, name: &HeaderName) -> Result<Identity, Refusal> {
        match self.0.start(headers, name) {
            Ok(result) => result,
            Err(issuer) => {
                issuer.wait_for_keys().await;
                self.0.finish(headers, name)
            }
        }
    }
}

/// Refuses a token whose key is still missing after what could be done.
fn key_missing(issuer: &Issuer) -> Refusal {
    if issuer.keys().is_none() {
        issuer.counters.unavailable();
        return Refusal::KeysUnavailable;
    }
    issuer.counters.refused(Reason::UnknownKey);
    Refusal::InvalidToken(Reason::UnknownKey)
}

impl Inner {
    /// Replaces the issuers. Those that did not change keep their keys.
    fn replace(&self, configs: Vec<IssuerConfig>) -> anyhow::Result<()> {
        let current = self.issuers.load();
        let mut issuers = Issuers::new();
        for config in configs {
            let issuer = match current.get(config.issuer.as_str()) {
                Some(running) if running.issuer.config == config => running.clone(),
                _ => Arc::new(RunningIssuer::start(config, &self.metrics, self.generation.clone(), self.pace)?),
            };
            issuers.insert(issuer.issuer.config.issuer.as_str().into(), issuer);
        }
        if !issuers.is_empty() {
            self.required.store(true, Ordering::Relaxed);
        }
        self.issuers.store(Arc::new(issuers));
        self.generation.advance();
        Ok(())
    }

    /// Identifies a request with the keys that are known. Returns the issuer whose key is missing as an error.
    fn start(&self, headers: &HeaderMap, name: &HeaderName) -> Result<Result<Identity, Refusal>, Arc<Issuer>> {
        let token = match bearer(headers, name) {
            Ok(None) => return Ok(Ok(Identity::Anonymous)),
            Ok(Some(token)) => token,
            Err(refusal) => return Ok(Err(refusal)),
        };
        match self.verify(token) {
            Ok(caller) => Ok(Ok(Identity::Caller(caller))),
            Err(Failure::KeyMissing(issuer)) => Err(issuer),
            Err(Failure::Refused(counters, reason)) => {
                counters.refused(reason);
                Ok(Err(Refusal::InvalidToken(reason)))
            }
        }
    }

    /// Identifies a request after what could be done to read a missing key.
    fn finish(&self, headers: &HeaderMap, name: &HeaderName) -> Result<Identity, Refusal> {
        self.start(headers, name).unwrap_or_else(|issuer| Err(key_missing(&issuer)))
    }

    fn verify(&self, token: &[u8]) -> Result<Arc<Caller>, Failure> {
        let unknown = |reason| Failure::Refused(self.metrics.unknown.clone(), reason);
        if token.len() > MAX_TOKEN {
            return Err(unknown(Reason::TooLarge));
        }
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        // Read before the keys: see `Generation::advance`.
        let generation = self.generation.current();
        let digest = memory::digest_of(token);
        let remembered = memory::recall(generation, &digest, |remembered| {
            if now.as_secs() >= remembered.until {
                return Err(Failure::Refused(remembered.counters.clone(), Reason::Expired));
            }
            remembered.counters.remembered();
            Ok(remembered.caller.clone())
        });
        if let Some(result) = remembered {
            return result;
        }

        let parts = Parts::split(token).map_err(unknown)?;
        let header = parts.header().map_err(unknown)?;
        let claims = parts.claims().map_err(unknown)?;
        let issuers = self.issuers.load();
        let running = issuers.get(&*claims.iss).ok_or_else(|| unknown(Reason::UnknownIssuer))?;
        let issuer = &running.issuer;
        let refused = |reason| Failure::Refused(issuer.counters.clone(), reason);

        if !issuer.config.accepts_type(header.typ.as_deref().unwrap_or_default()) {
            return Err(refused(Reason::WrongType));
        }
        let algorithm = Algorithm::from_name(&header.alg).ok_or_else(|| refused(Reason::WrongAlgorithm))?;
        // Before the signature, because expired tokens are common and cost less this way.
        let expires = claims::check(&claims, issuer, now).map_err(refused)?;
        let keys = issuer.keys().ok_or_else(|| Failure::KeyMissing(issuer.clone()))?;
        let key = keys.find(header.kid.as_deref()).ok_or_else(|| Failure::KeyMissing(issuer.clone()))?;
        if key.algorithm != algorithm {
            return Err(refused(Reason::WrongAlgorithm));
        }
        if !key.verifies(parts.signed, &parts.signature) {
            return Err(refused(Reason::WrongSignature));
        }
        let caller = Arc::new(claims::caller(&parts, &claims, issuer, expires).map_err(refused)?);
        issuer.counters.accepted();
        let until = expires.saturating_add(SKEW);
        let remembered = Remembered { caller: caller.clone(), until, counters: issuer.counters.clone() };
        memory::remember(generation, digest, remembered);
        Ok(caller)
    }
}

/// Returns the token of a request (RFC 6750, section 2.1); `None` if it has none.
fn bearer<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a [u8]>, Refusal> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Refusal::SeveralTokens);
    }
    let value = value.as_bytes();
    let scheme = value.iter().position(|byte| *byte == b' ').unwrap_or(value.len());
    let (scheme, token) = value.split_at(scheme);
    Ok(scheme.eq_ignore_ascii_case(b"Bearer").then(|| token.trim_ascii()))
}
