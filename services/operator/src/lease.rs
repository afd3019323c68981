//! Leader election with a Lease that the leader keeps renewing.
//!
//! As in client-go, clocks of different machines are never compared: a follower takes over once it has seen no renewal
//! for the duration of the Lease by its own clock.

use std::time::Duration;

use anyhow::{Context as _, bail};
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
    jiff::Timestamp,
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use tokio::{
    sync::watch,
    time::{self, Instant},
};

/// The name of the Lease.
const NAME: &str = "hedgerow-operator";
/// How long a Lease is valid after a renewal.
const DURATION: Duration = Duration::from_secs(15);
/// How long the leader tries to renew the Lease before it exits, well before another replica may take over.
const RENEW_DEADLINE: Duration = Duration::from_secs(10);
/// The interval of renewals, and of checks by followers.
const PERIOD: Duration = Duration::from_secs(2);
/// The timeout of a request to the API server.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);

/// A participant in the election.
pub(crate) struct Election {
    api: Api<Lease>,
    identity: String,
    /// The resource version of the Lease when it last changed, and when this replica saw that.
    seen: Option<(String, Instant)>,
}

impl Election {
    pub(crate) fn new(client: Client, namespace: &str, identity: String) -> Self {
        Self { api: Api::namespaced(client, namespace), identity, seen: None }
    }

    /// Takes part in the election until leadership is lost.
    ///
    /// # Errors
    /// Returns an error when leadership is lost. The process must exit then, because another replica may lead.
    pub(crate) async fn run(&mut self, leads: &watch::Sender<bool>) -> anyhow::Result<()> {
        let mut renewed = None;
        let mut ticks = time::interval(PERIOD);
        ticks.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let started = Instant::now();
            match time::timeout(REQUEST_TIMEOUT, self.acquire_or_renew()).await {
                Ok(Ok(true)) => {
                    if renewed.replace(started).is_none() {
                        tracing::info!(identity = self.identity, "leadership acquired");
                    }
                    leads.send_replace(true);
                }
                Ok(Ok(false)) if renewed.is_some() => bail!("leadership lost: another replica acquired the Lease"),
                Ok(Ok(false)) => {}
                Ok(Err(error)) => tracing::warn!(error = &error as &dyn std::error::Error, "cannot renew the Lease"),
                Err(_) => tracing::warn!("cannot renew the Lease: the API server timed out"),
            }
            if renewed.is_some_and(|at| at.elapsed() > RENEW_DEADLINE) {
                bail!("leadership lost: the Lease could not be renewed for {RENEW_DEADLINE:?}");
            }
        }
    }

    /// Releases the Lease, so that another replica can take over without waiting for it to expire.
    pub(crate) async fn release(&self) -> anyhow::Result<()> {
        let release = async {
            let lease = self.api.get(NAME).await?;
            if lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_ref()) == Some(&self.identity) {
                let spec = LeaseSpec { holder_identity: Some(String::new()), ..lease.spec.clone().unwrap_or_default() };
                self.write(&lease, spec).await?;
            }
            Ok::<_, kube::Error>(())
        };
        time::timeout(REQUEST_TIMEOUT, release).await.context("the API server timed out")??;
        Ok(())
    }

    /// Returns whether this replica holds the Lease.
    async fn acquire_or_renew(&mut self) -> Result<bool, kube::Error> {
        let Some(lease) = self.api.get_opt(NAME).await? else {
            let metadata = ObjectMeta { name: Some(NAME.to_owned()), ..ObjectMeta::default() };
            let lease = Lease { metadata, spec: Some(self.held_spec(None)) };
            return match self.api.create(&PostParams::default(), &lease).await {
                Ok(_) => Ok(true),
                Err(error) => conflict_is_loss(error),
            };
        };
        let spec = lease.spec.clone().unwrap_or_default();
        if spec.holder_identity.as_ref() != Some(&self.identity) && !self.is_free(&lease, &spec) {
            return Ok(false);
        }
        match self.write(&lease, self.held_spec(Some(spec))).await {
            Ok(()) => Ok(true),
            Err(error) => conflict_is_loss(error),
        }
    }

    /// Whether the Lease has no holder or has expired.
    fn is_free(&mut self, lease: &Lease, spec: &LeaseSpec) -> bool {
        if spec.holder_identity.as_deref().unwrap_or_default().is_empty() {
            return true;
        }
        let version = lease.metadata.resource_version.clone().unwrap_or_default();
        match &self.seen {
            Some((seen, since)) if *seen == version => since.elapsed() >= DURATION,
            _ => {
                self.seen = Some((version, Instant::now()));
                false
            }
        }
    }

    /// The spec of the Lease when held by this replica.
    fn held_spec(&self, before: Option<LeaseSpec>) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        let before = before.unwrap_or_default();
        let renewal = before.holder_identity.as_ref() == Some(&self.identity);
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
            acquire_time: if renewal { before.acquire_time } else { Some(now.clone()) },
            renew_time: Some(now),
            lease_transitions: Some(before.lease_transitions.unwrap_or(0) + i32::from(!renewal)),
            ..LeaseSpec::default()
        }
    }

    /// Writes the Lease unless it changed since it was read.
    async fn write(&self, lease: &Lease, spec: LeaseSpec) -> Result<(), kube::Error> {
        let resource_version = &lease.metadata.resource_version;
        let patch = serde_json::json!({ "metadata": { "resourceVersion": resource_version }, "spec": spec });
        self.api.patch(NAME, &PatchParams::default(), &Patch::Merge(patch)).await.map(drop)
    }
}

/// Maps a conflict to `false`: another replica was faster.
fn conflict_is_loss(error: kube::Error) -> Result<bool, kube::Error> {
    match error {
        kube::Error::Api(status) if status.code == 409 => Ok(false),
        error => Err(error),
    }
}
