//! The known objects, and the services that follow from them.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::SocketAddr,
};

use kube::{ResourceExt, runtime::watcher::Event};

use super::objects::{Claim, Slice, State};
use crate::discovery::publisher::Service;

/// The known objects of both kinds.
#[derive(Debug, Default)]
pub(super) struct Table {
    pub(super) services: Objects<Claim>,
    pub(super) slices: Objects<Slice>,
}

/// The relevant objects of one kind, by name.
#[derive(Debug)]
pub(super) struct Objects<T> {
    current: BTreeMap<String, T>,
    /// The objects of a list that is still incomplete.
    pending: BTreeMap<String, T>,
    /// Whether a complete list was received.
    complete: bool,
}

impl<T> Default for Objects<T> {
    fn default() -> Self {
        Self { current: BTreeMap::new(), pending: BTreeMap::new(), complete: false }
    }
}

impl<T> Objects<T> {
    /// Applies an event. `read` extracts what is kept of an object, or returns `None` if it is irrelevant.
    pub(super) fn apply<K: ResourceExt>(&mut self, event: Event<K>, read: impl Fn(&K) -> Option<T>) {
        match event {
            Event::Init => self.pending.clear(),
            Event::InitApply(object) => {
                if let Some(kept) = read(&object) {
                    self.pending.insert(object.name_any(), kept);
                }
            }
            Event::InitDone => {
                self.current = std::mem::take(&mut self.pending);
                self.complete = true;
            }
            Event::Apply(object) => {
                match read(&object) {
                    Some(kept) => self.current.insert(object.name_any(), kept),
                    None => self.current.remove(&object.name_any()),
                };
            }
            Event::Delete(object) => {
                self.current.remove(&object.name_any());
            }
        }
    }
}

/// The services that follow from the known objects.
#[derive(Debug, PartialEq)]
pub(super) struct View {
    /// Sorted by name.
    pub(super) services: Vec<Service>,
    pub(super) malformed: BTreeSet<Malformed>,
    pub(super) conflicts: BTreeSet<Conflict>,
}

/// A service whose route annotation is malformed. If only its `auth` is, it keeps its paths, and its route is closed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Malformed {
    pub(super) service: String,
    pub(super) error: String,
}

/// A path that a service claims although an older one has it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Conflict {
    pub(super) path: String,
    /// The service that the path is routed to.
    pub(super) owner: String,
    /// The service whose claim to it is ignored.
    pub(super) service: String,
}

impl Table {
    /// Derives the services; `None` until both kinds have been listed completely.
    pub(super) fn view(&self) -> Option<View> {
        (self.services.complete && self.slices.complete).then(|| view(&self.services.current, &self.slices.current))
    }
}

/// If two Services claim a path, the older one wins.
fn view(claims: &BTreeMap<String, Claim>, slices: &BTreeMap<String, Slice>) -> View {
    let mut by_age = Vec::with_capacity(claims.len());
    let mut malformed = BTreeSet::new();
    for (name, claim) in claims {
        match &claim.route {
            Ok(route) => {
                by_age.push((claim.created, name.as_str(), (route, &claim.access)));
                if let Some(reason) = claim.access.closed() {
                    let error = format!("auth: {reason}; requests get 503");
                    malformed.insert(Malformed { service: name.clone(), error });
                }
            }
            Err(error) => {
                malformed.insert(Malformed { service: name.clone(), error: error.clone() });
            }
        }
    }
    // Timestamps have a resolution of a second. On a tie the name decides, as in the operator.
    by_age.sort_unstable_by_key(|(created, name, _)| (*created, *name));
    let mut slices_of: HashMap<&str, Vec<&Slice>> = HashMap::with_capacity(by_age.len());
    for slice in slices.values() {
        slices_of.entry(&slice.service).or_default().push(slice);
    }

    let mut owners: HashMap<&str, &str> = HashMap::with_capacity(by_age.len());
    let (mut services, mut conflicts) = (Vec::with_capacity(by_age.len()), BTreeSet::new());
    for (_, name, (route, access)) in by_age {
        let mut paths = Vec::with_capacity(route.paths.len());
        for path in &route.paths {
            let owner = *owners.entry(path).or_insert(name);
            if owner == name {
                paths.push(path.clone());
            } else {
                conflicts.insert(Conflict { path: path.clone(), owner: owner.to_owned(), service: name.to_owned() });
            }
        }
        if !paths.is_empty() {
            let slices = slices_of.get(name).map_or(&[][..], Vec::as_slice);
            let http = usable(slices.iter().flat_map(|slice| &slice.http));
            let grpc = route.grpc.then(|| usable(slices.iter().flat_map(|slice| &slice.grpc)));
            let idempotency_keys = route.idempotency_keys.clone();
            let access = access.clone();
            services.push(Service { name: name.to_owned(), paths, http, grpc, idempotency_keys, access });
        }
    }
    services.sort_unstable_by(|one, other| one.name.cmp(&other.name));
    View { services, malformed, conflicts }
}

/// The ready endpoints or, if none is ready, those that still serve while they terminate.
///
/// In a dual-stack cluster a pod is in two slices, one per address family, although it is one endpoint. IPv4 addresses
/// are preferred, so that it is used once.
fn usable<'a>(endpoints: impl Iterator<Item = &'a (SocketAddr, State)> + Clone) -> Vec<SocketAddr> {
    let best = endpoints.clone().map(|(_, state)| *state).max();
    let usable = endpoints.filter(|(_, state)| Some(*state) == best).map(|(address, _)| *address);
    let mut usable: Vec<SocketAddr> = usable.collect();
    if usable.iter().any(SocketAddr::is_ipv4) {
        usable.retain(SocketAddr::is_ipv4);
    }
    usable.sort_unstable();
    usable.dedup();
    usable
}
