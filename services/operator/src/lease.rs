//! Leader election with a Lease that the leader keeps renewing.
//!
//! As in client-go, clocks of different machines are never compared: a follower takes over once it has seen no renewal
//! for the duration of the Lease by its own clock. A leader stops writing a shorter time after it began its last renewal.

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

use crate::leadership::{Leadership, Role};

/// The name of the Lease.
const NAME: &str = "hedgerow-operator";
/// How long a Lease is valid after a renewal. Another replica acts at most 15 s after a leader was killed.
const DURATION: Duration = Duration::from_secs(14);
/// How long a leader may write after it began to renew the Lease, well before another replica may take over.
const RENEW_DEADLINE: Duration = Duration::from_secs(10);
/// The interval of renewals, and the wait after a failed request.
const RENEW_PERIOD: Duration = Duration::from_secs(2);
/// The interval of a follower's checks, which is how long a released Lease may stay without a holder.
const CHECK_PERIOD: Duration = Duration::from_millis(500);
/// The timeout of a request to the API server.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);

/// A participant in the election.
pub(crate) struct Election {
    api: Api<Lease>,
    identity: String,
    role: watch::Sender<Role>,
    /// The resource version of the Lease when it last changed, and when this replica saw that.
    seen: Option<(String, Instant)>,
}

impl Election {
    pub(crate) fn new(client: Client, namespace: &str, identity: String) -> Self {
        let role = watch::Sender::new(Role::Unknown);
        Self { api: Api::namespaced(client, namespace), identity, role, seen: None }
    }

    pub(crate) fn leadership(&self) -> Leadership {
        Leadership(self.role.subscribe())
    }

    /// Takes part in the election until leadership is lost.
    ///
    /// # Errors
    /// Returns an error when leadership is lost. The process must exit then, because another replica may lead.
    pub(crate) async fn run(&mut self) -> anyhow::Result<()> {
        let mut until = self.follow().await;
        tracing::info!(identity = self.identity, "leadership acquired");
        loop {
            self.role.send_replace(Role::Leader(until));
            let renewal = async {
                loop {
                    time::sleep(RENEW_PERIOD).await;
                    let started = Instant::now();
                    if let Some(holds) = self.acquire_or_renew().await {
                        return holds.then_some(started + RENEW_DEADLINE);
                    }
                }
            };
            until = match time::timeout_at(until, renewal).await {
                Ok(Some(until)) => until,
                Ok(None) => bail!("leadership lost: another replica acquired the Lease"),
                Err(_) => bail!("leadership lost: the Lease could not be renewed for {RENEW_DEADLINE:?}"),
            };
        }
    }

    /// Waits until this replica holds the Lease. Returns until when it may write.
    async fn follow(&mut self) -> Instant {
        loop {
            let started = Instant::now();
            let wait = match self.acquire_or_renew().await {
                Some(true) => return started + RENEW_DEADLINE,
                Some(false) => {
                    self.role.send_replace(Role::Follower);
                    CHECK_PERIOD
                }
                None => RENEW_PERIOD,
            };
            time::sleep(wait).await;
        }
    }

    /// Releases the Lease, so that another replica can take over without waiting for it to expire.
    pub(crate) async fn release(&self) -> anyhow::Result<()> {
        self.role.send_replace(Role::Follower);
        let release = async {
            loop {
                let lease = self.api.get(NAME).await?;
                let spec = lease.spec.clone().unwrap_or_default();
                if spec.holder_identity.as_ref() != Some(&self.identity) {
                    return Ok::<_, kube::Error>(());
                }
                match self.write(&lease, LeaseSpec { holder_identity: Some(String::new()), ..spec }).await {
                    // A renewal was on its way.
                    Err(error) if is_conflict(&error) => {}
                    released => return released,
                }
            }
        };
        time::timeout(REQUEST_TIMEOUT, release).await.context("the API server timed out")??;
        Ok(())
    }

    /// Returns whether this replica holds the Lease, or `None` if the request failed.
    async fn acquire_or_renew(&mut self) -> Option<bool> {
        match time::timeout(REQUEST_TIMEOUT, self.try_acquire_or_renew()).await {
            Ok(Ok(holds)) => return Some(holds),
            Ok(Err(error)) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "cannot acquire or renew the Lease");
            }
            Err(_) => tracing::warn!("cannot acquire or renew the Lease: the API server timed out"),
        }
        None
    }

    async fn try_acquire_or_renew(&mut self) -> Result<bool, kube::Error> {
        loop {
            let written = if let Some(lease) = self.api.get_opt(NAME).await? {
                let spec = lease.spec.clone().unwrap_or_default();
                if spec.holder_identity.as_ref() != Some(&self.identity) && !self.is_free(&lease, &spec) {
                    return Ok(false);
                }
                self.write(&lease, self.held_spec(Some(spec))).await
            } else {
                let metadata = ObjectMeta { name: Some(NAME.to_owned()), ..ObjectMeta::default() };
                let lease = Lease { metadata, spec: Some(self.held_spec(None)) };
                self.api.create(&PostParams::default(), &lease).await.map(drop)
            };
            match written {
                // Another replica was faster, or an earlier renewal has arrived late.
                Err(error) if is_conflict(&error) => {}
                written => return written.map(|()| true),
            }
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

/// Whether the Lease was written since it was read.
fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{Method, StatusCode};
    use test_support::api_server::ApiServer;

    const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/default/leases/hedgerow-operator";

    /// Runs an election until the replica leads.
    async fn lead(election: &mut Election) {
        let leadership = election.leadership();
        tokio::select! {
            lost = election.run() => panic!("it does not lead: {lost:?}"),
            () = leadership.acquired() => {}
        }
    }

    /// How long it takes until a follower leads after the leader has ended. The clock is paused: it advances while all
    /// tasks are idle.
    async fn succession(released: bool) -> Duration {
        let server = ApiServer::default();
        let [mut first, mut second] = ["one", "two"].map(|name| Election::new(server.client(), "default", name.into()));
        lead(&mut first).await;
        let succeeded = second.leadership();
        tokio::spawn(async move { second.run().await });
        // Between two renewals.
        assert!(time::timeout(RENEW_PERIOD + Duration::from_millis(100), first.run()).await.is_err(), "it leads");
        assert_eq!(succeeded.role(), Role::Follower);
        let ended = Instant::now();
        if released {
            first.release().await.expect("the API server accepts it");
        }
        succeeded.acquired().await;
        ended.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_released_lease_is_acquired_within_a_second() {
        let after = succession(true).await;
        assert!(after < Duration::from_secs(1), "{after:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_dead_leader_is_replaced_within_15_seconds() {
        let after = succession(false).await;
        assert!(after > RENEW_DEADLINE, "the dead leader might still write: {after:?}");
        assert!(after < Duration::from_secs(15), "{after:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_that_cannot_renew_the_lease_gives_up() {
        let server = ApiServer::default();
        let mut election = Election::new(server.client(), "default", "one".into());
        let leadership = election.leadership();
        let election = tokio::spawn(async move { election.run().await });
        leadership.acquired().await;
        server.refuse(Method::PATCH, LEASE, StatusCode::INTERNAL_SERVER_ERROR, "etcd is unavailable");
        let begun = Instant::now();
        let error = election.await.expect("no panic").expect_err("leadership is lost");
        assert!(error.to_string().contains("could not be renewed"), "{error}");
        assert!(begun.elapsed() < DURATION, "before another replica leads");
        assert!(!leadership.may_write());
    }
}
