//! The identity of a service's pods.

use k8s_openapi::api::core::v1::ServiceAccount;
use kube::ResourceExt;

use super::{SERVICE, metadata};
use api::Microservice;

pub(super) fn build(object: &Microservice) -> ServiceAccount {
    ServiceAccount {
        metadata: metadata(object, object.name_any(), SERVICE),
        automount_service_account_token: Some(object.spec.automount_token),
        ..ServiceAccount::default()
    }
}
