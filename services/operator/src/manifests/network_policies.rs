//! Who may connect to a service: the peers in its spec, its callers, the gateway if it has a route, and Prometheus on
//! the admin port; every service to the issuer, whose keys they read. Egress is not restricted.
//!
//! The policy also selects the pods that migrate. They have no ports of these names, so nothing may connect to them.

use k8s_openapi::{
    api::networking::v1::{
        NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
    },
    apimachinery::pkg::{
        apis::meta::v1::{LabelSelector, LabelSelectorRequirement},
        util::intstr::IntOrString,
    },
};
use kube::ResourceExt;

use super::{
    inputs::RenderInputs,
    labels::{self, SERVICE, metadata},
};
use api::{GATEWAY, Microservice, Peer};

/// The peer that matches everything.
const ANY: &str = "any";

pub(super) fn build(object: &Microservice, inputs: &RenderInputs) -> Vec<NetworkPolicy> {
    let rules = [admitted(object, inputs), routed(object), trusted(object, inputs), Some(scraped(inputs))];
    let spec = NetworkPolicySpec {
        pod_selector: Some(labels::all_pods(object)),
        policy_types: Some(vec!["Ingress".to_owned()]),
        ingress: Some(rules.into_iter().flatten().collect()),
        egress: None,
    };
    vec![NetworkPolicy { metadata: metadata(object, object.name_any(), SERVICE), spec: Some(spec) }]
}

/// Admits the peers in the spec and the callers. `None` if there are none: a rule without peers would admit everything.
fn admitted(object: &Microservice, inputs: &RenderInputs) -> Option<NetworkPolicyIngressRule> {
    let mut peers = object.spec.network.allow_from.clone();
    let any = peers.iter().any(|peer| matches!(peer, Peer::Name(name) if name == ANY));
    for caller in inputs.callers.iter().cloned().map(Peer::Name) {
        if !peers.contains(&caller) {
            peers.push(caller);
        }
    }
    let from = (!any).then(|| peers.iter().map(peer).collect());
    (!peers.is_empty()).then(|| NetworkPolicyIngressRule { ports: Some(ports(object, true)), from })
}

fn routed(object: &Microservice) -> Option<NetworkPolicyIngressRule> {
    let route = object.spec.route.as_ref()?;
    let gateway = peer(&Peer::Name(GATEWAY.to_owned()));
    Some(NetworkPolicyIngressRule { ports: Some(ports(object, route.grpc)), from: Some(vec![gateway]) })
}

/// Admits every service to the issuer.
fn trusted(object: &Microservice, inputs: &RenderInputs) -> Option<NetworkPolicyIngressRule> {
    let issuer = inputs.authentication.as_ref()?.issuer.as_ref()?;
    let services = Peer::Labels(labels::services());
    issuer
        .is(object)
        .then(|| NetworkPolicyIngressRule { ports: Some(ports(object, false)), from: Some(vec![peer(&services)]) })
}

fn scraped(inputs: &RenderInputs) -> NetworkPolicyIngressRule {
    let namespaces = LabelSelectorRequirement {
        key: "kubernetes.io/metadata.name".to_owned(),
        operator: "In".to_owned(),
        values: Some(inputs.scrape_namespaces.clone()),
    };
    let peer = NetworkPolicyPeer {
        namespace_selector: Some(LabelSelector {
            match_expressions: Some(vec![namespaces]),
            ..LabelSelector::default()
        }),
        ..NetworkPolicyPeer::default()
    };
    NetworkPolicyIngressRule {
        ports: Some(vec![port("admin")]),
        from: (!inputs.scrape_namespaces.is_empty()).then(|| vec![peer]),
    }
}

fn peer(peer: &Peer) -> NetworkPolicyPeer {
    let labels = match peer {
        Peer::Name(name) => labels::selector(name, SERVICE),
        Peer::Labels(labels) => labels.clone(),
    };
    NetworkPolicyPeer {
        pod_selector: Some(LabelSelector { match_labels: Some(labels), ..LabelSelector::default() }),
        ..NetworkPolicyPeer::default()
    }
}

/// The HTTP port and, if the service has one and `grpc` is true, the gRPC port.
fn ports(object: &Microservice, grpc: bool) -> Vec<NetworkPolicyPort> {
    let grpc = object.spec.ports.grpc.filter(|_| grpc).map(|_| port("grpc"));
    [Some(port("http")), grpc].into_iter().flatten().collect()
}

fn port(name: &str) -> NetworkPolicyPort {
    NetworkPolicyPort {
        port: Some(IntOrString::String(name.to_owned())),
        protocol: Some("TCP".to_owned()),
        end_port: None,
    }
}
