//! Who may connect to a service: whom the spec names, the gateway where there is a route, Prometheus on the admin
//! port. What a service itself connects to is not restricted.
//!
//! The policy is for the pods that migrate as well. They have no ports of these names, so nobody may connect to them.

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

use super::{Facts, SERVICE, labels, metadata};
use api::{Microservice, Peer};

/// The `Microservice` through which requests come from outside.
const GATEWAY: &str = "gateway";
/// The peer that stands for everyone.
const ANY: &str = "any";

pub(super) fn build(object: &Microservice, facts: &Facts) -> Vec<NetworkPolicy> {
    let rules = [allowed(object), routed(object), Some(scraping(facts))];
    let spec = NetworkPolicySpec {
        pod_selector: Some(labels::all_pods(object)),
        policy_types: Some(vec!["Ingress".to_owned()]),
        ingress: Some(rules.into_iter().flatten().collect()),
        egress: None,
    };
    vec![NetworkPolicy { metadata: metadata(object, object.name_any(), SERVICE), spec: Some(spec) }]
}

/// None where the spec names nobody: a rule without peers would admit everyone.
fn allowed(object: &Microservice) -> Option<NetworkPolicyIngressRule> {
    let peers = &object.spec.network.allow_from;
    let anyone = peers.iter().any(|peer| matches!(peer, Peer::Name(name) if name == ANY));
    let from = (!anyone).then(|| peers.iter().map(peer).collect());
    (!peers.is_empty()).then(|| NetworkPolicyIngressRule { ports: Some(ports(object, true)), from })
}

fn routed(object: &Microservice) -> Option<NetworkPolicyIngressRule> {
    let route = object.spec.route.as_ref()?;
    let gateway = peer(&Peer::Name(GATEWAY.to_owned()));
    Some(NetworkPolicyIngressRule { ports: Some(ports(object, route.grpc)), from: Some(vec![gateway]) })
}

fn scraping(facts: &Facts) -> NetworkPolicyIngressRule {
    let namespaces = LabelSelectorRequirement {
        key: "kubernetes.io/metadata.name".to_owned(),
        operator: "In".to_owned(),
        values: Some(facts.scrape_namespaces.clone()),
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
        from: (!facts.scrape_namespaces.is_empty()).then(|| vec![peer]),
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

/// The ports of requests; that of gRPC where there is one and it is `wanted`.
fn ports(object: &Microservice, wanted: bool) -> Vec<NetworkPolicyPort> {
    let grpc = object.spec.ports.grpc.filter(|_| wanted).map(|_| port("grpc"));
    [Some(port("http")), grpc].into_iter().flatten().collect()
}

fn port(name: &str) -> NetworkPolicyPort {
    NetworkPolicyPort {
        port: Some(IntOrString::String(name.to_owned())),
        protocol: Some("TCP".to_owned()),
        end_port: None,
    }
}
