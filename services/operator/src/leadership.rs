//! Whether this replica leads, and a client that refuses to write if it does not.
//!
//! A leader whose process was frozen, or that the API server does not reach, learns late that another replica leads. The
//! client therefore compares the time before each write, so that nothing but a request already on its way can arrive
//! after that.

use std::{
    future::{Ready, ready},
    task::{Context, Poll},
};

use futures_util::future::{Either, MapErr, TryFutureExt};
use http::{Method, Request};
use tokio::{sync::watch, time::Instant};
use tower::{BoxError, Layer, Service};

/// The part of this replica in the election.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Role {
    /// It has not read the Lease yet.
    Unknown,
    Follower,
    /// It may write until then.
    Leader(Instant),
}

/// Tells whether this replica leads.
#[derive(Debug, Clone)]
pub(crate) struct Leadership(pub(crate) watch::Receiver<Role>);

impl Leadership {
    /// Waits until this replica leads.
    pub(crate) async fn acquired(&self) {
        // The sender is dropped only when the process exits.
        if self.0.clone().wait_for(|role| matches!(role, Role::Leader(_))).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    pub(crate) fn role(&self) -> Role {
        *self.0.borrow()
    }

    /// Whether this replica may write now.
    pub(crate) fn may_write(&self) -> bool {
        matches!(self.role(), Role::Leader(until) if Instant::now() < until)
    }
}

/// A layer that refuses writes to the API server unless this replica leads.
#[derive(Clone)]
pub(crate) struct Fence(pub(crate) Leadership);

/// The service of [`Fence`].
#[derive(Clone)]
pub(crate) struct Fenced<S> {
    inner: S,
    leadership: Leadership,
}

#[derive(Debug, thiserror::Error)]
#[error("this replica does not lead, so it must not write")]
struct NotLeading;

impl<S> Layer<S> for Fence {
    type Service = Fenced<S>;

    fn layer(&self, inner: S) -> Fenced<S> {
        Fenced { inner, leadership: self.0.clone() }
    }
}

impl<S, B> Service<Request<B>> for Fenced<S>
where
    S: Service<Request<B>, Error: Into<BoxError>>,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = Either<Ready<Result<S::Response, BoxError>>, MapErr<S::Future, fn(S::Error) -> BoxError>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        if *request.method() == Method::GET || self.leadership.may_write() {
            Either::Right(self.inner.call(request).map_err(Into::into as fn(S::Error) -> BoxError))
        } else {
            Either::Left(ready(Err(NotLeading.into())))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::{Api, api::PostParams, client::ClientBuilder};
    use test_support::api_server::ApiServer;
    use tokio::time;

    const VALID: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn only_a_leader_with_a_valid_lease_can_write() {
        let server = ApiServer::default();
        let (role, receiver) = watch::channel(Role::Unknown);
        let unfenced = server.client();
        let service = tower::service_fn(move |request| {
            let client = unfenced.clone();
            async move { client.send(request).await }
        });
        let client = ClientBuilder::new(service, "default").with_layer(&Fence(Leadership(receiver))).build();
        let api: Api<ConfigMap> = Api::default_namespaced(client);
        let write = async || api.create(&PostParams::default(), &ConfigMap::default()).await;
        for refused in [Role::Unknown, Role::Follower, Role::Leader(Instant::now())] {
            role.send_replace(refused);
            let error = write().await.expect_err("it is refused");
            assert!(matches!(&error, kube::Error::Service(error) if error.is::<NotLeading>()), "{error:?}");
        }
        assert_eq!(server.take_requests(), [], "no request is sent");
        assert!(api.get_opt("any").await.expect("followers may read").is_none());

        role.send_replace(Role::Leader(Instant::now() + VALID));
        write().await.expect("a leader may write");
        time::advance(VALID).await;
        server.delete("/api/v1/namespaces/default/configmaps/generated");
        write().await.expect_err("its time is over, although it does not know yet that it lost the Lease");
    }
}
