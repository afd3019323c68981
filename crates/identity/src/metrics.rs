//! The metrics of a verifier. An issuer's name is a label only if it is configured.

use std::{
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Instant,
};

use prometheus::{
    GaugeVec, IntCounter, IntCounterVec, Opts, Registry,
    core::{Collector, Desc},
    proto::MetricFamily,
};

use crate::refusal::Reason;

/// The counters of one issuer.
pub(crate) struct Counters {
    accepted: IntCounter,
    remembered: IntCounter,
    unavailable: IntCounter,
    refused: [IntCounter; Reason::ALL.len()],
}

impl Counters {
    fn new(verified: &IntCounterVec, issuer: &str) -> Self {
        let counter = |outcome: &str| verified.with_label_values(&[issuer, outcome]);
        Self {
            accepted: counter("accepted"),
            remembered: counter("remembered"),
            unavailable: counter("keys-unavailable"),
            refused: Reason::ALL.map(|reason| counter(&reason.to_string())),
        }
    }

    pub(crate) fn accepted(&self) {
        self.accepted.inc();
    }

    pub(crate) fn remembered(&self) {
        self.remembered.inc();
    }

    pub(crate) fn unavailable(&self) {
        self.unavailable.inc();
    }

    pub(crate) fn refused(&self, reason: Reason) {
        if let Some(counter) = self.refused.get(reason as usize) {
            counter.inc();
        }
    }
}

/// When the keys of an issuer were last read, or when the first attempt was made.
pub(crate) type LastRead = Arc<Mutex<Instant>>;

/// The metrics of all issuers.
#[derive(Clone)]
pub(crate) struct Metrics {
    verified: IntCounterVec,
    ages: Ages,
    /// For tokens without a configured issuer.
    pub(crate) unknown: Arc<Counters>,
}

impl Metrics {
    /// Registers the metrics.
    ///
    /// # Errors
    /// Returns an error if two metrics share a name, which is a bug.
    pub(crate) fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let help = "Tokens by issuer and outcome: `accepted`, `remembered` (accepted before), or why not.";
        let verified = IntCounterVec::new(Opts::new("auth_tokens_verified_total", help), &["issuer", "outcome"])?;
        registry.register(Box::new(verified.clone()))?;
        let help = "Seconds since the keys of an issuer were last read, or since the start if they never were.";
        let age = GaugeVec::new(Opts::new("auth_jwks_age_seconds", help), &["issuer"])?;
        let ages = Ages { age, issuers: Arc::default() };
        registry.register(Box::new(ages.clone()))?;
        let unknown = Arc::new(Counters::new(&verified, "unknown"));
        Ok(Self { verified, ages, unknown })
    }

    /// Adds an issuer.
    pub(crate) fn issuer(&self, issuer: &str, last_read: &LastRead) -> Arc<Counters> {
        let mut issuers = self.ages.issuers.lock().unwrap_or_else(PoisonError::into_inner);
        issuers.push((issuer.into(), Arc::downgrade(last_read)));
        Arc::new(Counters::new(&self.verified, issuer))
    }
}

/// The name of an issuer, and when its keys were last read; it goes away with the issuer.
type WeakIssuer = (Box<str>, Weak<Mutex<Instant>>);

/// Computes the ages when they are asked for.
#[derive(Clone)]
struct Ages {
    age: GaugeVec,
    issuers: Arc<Mutex<Vec<WeakIssuer>>>,
}

impl Collector for Ages {
    fn desc(&self) -> Vec<&Desc> {
        self.age.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.age.reset();
        let mut issuers = self.issuers.lock().unwrap_or_else(PoisonError::into_inner);
        issuers.retain(|(issuer, last_read)| {
            let Some(last_read) = last_read.upgrade() else { return false };
            let last_read = *last_read.lock().unwrap_or_else(PoisonError::into_inner);
            self.age.with_label_values(&[issuer]).set(last_read.elapsed().as_secs_f64());
            true
        });
        self.age.collect()
    }
}
