//! Which replica acts: a Lease that the acting one keeps renewing.
//!
//! As in client-go's leader election, clocks of two machines are never compared: a follower takes over once it has seen
//! no renewal for the Lease's duration by its own clock.

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

/// The Lease's name.
const NAME: &str = "hedgerow-operator";
/// How long a Lease is good for after a renewal.
const DURATION: Duration = Duration::from_secs(15);
/// The acting replica gives up when it could not renew for so long: well before another may take over.
const RENEW_DEADLINE: Duration = Duration::from_secs(10);
/// Time between two looks at the Lease.
const PERIOD: Duration = Duration::from_secs(2);
/// How long one request to the API server may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);

/// This replica's part in the election.
pub(crate) struct Election {
    api: Api<Lease>,
    identity: String,
    /// The Lease's version as last seen, and since when it has been that.
    seen: Option<(String, Instant)>,
}

impl Election {
    pub(crate) fn new(client: Client, namespace: &str, identity: String) -> Self {
        Self { api: Api::namespaced(client, namespace), identity, seen: None }
    }

    /// Takes part until the Lease is held and then lost.
    ///
    /// # Errors
    /// When the Lease was lost: this process must end, as another may act by now.
    pub(crate) async fn run(&mut self, leads: &watch::Sender<bool>) -> anyhow::Result<()> {
        let mut renewed = None;
        let mut ticks = time::interval(PERIOD);
        ticks.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let begun = Instant::now();
            match time::timeout(REQUEST_TIMEOUT, self.acquire_or_renew()).await {
                Ok(Ok(true)) => {
                    if renewed.replace(begun).is_none() {
                        tracing::info!(identity = self.identity, "leading");
                    }
                    leads.send_replace(true);
                }
                Ok(Ok(false)) if renewed.is_some() => bail!("another replica took the Lease"),
                Ok(Ok(false)) => {}
                Ok(Err(error)) => tracing::warn!(error = &error as &dyn std::error::Error, "cannot renew the Lease"),
                Err(_) => tracing::warn!("the API server does not answer about the Lease"),
            }
            if renewed.is_some_and(|at| at.elapsed() > RENEW_DEADLINE) {
                bail!("the Lease could not be renewed for {RENEW_DEADLINE:?}");
            }
        }
    }

    /// Gives the Lease up, so that another replica need not wait for it to run out.
    pub(crate) async fn release(&self) -> anyhow::Result<()> {
        let release = async {
            let lease = self.api.get(NAME).await?;
            if lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_ref()) == Some(&self.identity) {
                let spec = LeaseSpec { holder_identity: Some(String::new()), ..lease.spec.clone().unwrap_or_default() };
                self.write(&lease, spec).await?;
            }
            Ok::<_, kube::Error>(())
        };
        time::timeout(REQUEST_TIMEOUT, release).await.context("the API server does not answer")??;
        Ok(())
    }

    /// Whether this replica holds the Lease now.
    async fn acquire_or_renew(&mut self) -> Result<bool, kube::Error> {
        let Some(lease) = self.api.get_opt(NAME).await? else {
            let metadata = ObjectMeta { name: Some(NAME.to_owned()), ..ObjectMeta::default() };
            let lease = Lease { metadata, spec: Some(self.claim(None)) };
            return match self.api.create(&PostParams::default(), &lease).await {
                Ok(_) => Ok(true),
                Err(error) => lost_to_another(error),
            };
        };
        let spec = lease.spec.clone().unwrap_or_default();
        if spec.holder_identity.as_ref() != Some(&self.identity) && !self.is_free(&lease, &spec) {
            return Ok(false);
        }
        match self.write(&lease, self.claim(Some(spec))).await {
            Ok(()) => Ok(true),
            Err(error) => lost_to_another(error),
        }
    }

    /// Whether nobody holds the Lease, or its holder has not renewed it for too long.
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

    /// The Lease as this replica's.
    fn claim(&self, before: Option<LeaseSpec>) -> LeaseSpec {
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

    /// Writes the Lease, if it is still as it was read.
    async fn write(&self, lease: &Lease, spec: LeaseSpec) -> Result<(), kube::Error> {
        let resource_version = &lease.metadata.resource_version;
        let patch = serde_json::json!({ "metadata": { "resourceVersion": resource_version }, "spec": spec });
        self.api.patch(NAME, &PatchParams::default(), &Patch::Merge(patch)).await.map(drop)
    }
}

/// A conflict means that another replica was faster.
fn lost_to_another(error: kube::Error) -> Result<bool, kube::Error> {
    match error {
        kube::Error::Api(status) if status.code == 409 => Ok(false),
        error => Err(error),
    }
}
