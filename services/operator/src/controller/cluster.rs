//! The identity of the cluster, which ownership comments name.

use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Client, ResourceExt};
use tokio::sync::OnceCell;

use super::error::{Error, with_timeout};

/// The namespace that every cluster has, and that is never deleted.
const NAMESPACE: &str = "kube-system";

/// The uid of the namespace `kube-system`. It is read once.
pub(crate) struct Cluster {
    namespaces: Api<Namespace>,
    uid: OnceCell<String>,
}

impl Cluster {
    pub(crate) fn new(client: Client) -> Self {
        Self { namespaces: Api::all(client), uid: OnceCell::new() }
    }

    pub(crate) async fn uid(&self) -> Result<&str, Error> {
        let read = || async {
            let namespace = with_timeout("read the uid of the namespace kube-system", self.namespaces.get(NAMESPACE));
            namespace.await.map(|namespace| namespace.uid().unwrap_or_default())
        };
        self.uid.get_or_try_init(read).await.map(String::as_str)
    }
}
