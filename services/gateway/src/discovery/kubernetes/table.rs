//! All objects that are known, and what they come to.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
};

use kube::{ResourceExt, runtime::watcher::Event};

use super::objects::{Claim, Slice, State};
use crate::services::Service;

/// Both kinds of objects.
#[derive(Debug, Default)]
pub(super) struct Table {
    pub(super) services: Known<Claim>,
    pub(super) slices: Known<Slice>,
}

/// The objects of one kind by name, of which none but the wanted are kept.
#[derive(Debug)]
pub(super) struct Known<T> {
    objects: BTreeMap<String, T>,
    /// Those of a list that is not complete yet.
    listed: BTreeMap<String, T>,
    /// Whether there ever was a complete one.
    complete: bool,
}

impl<T> Default for Known<T> {
    fn default() -> Self {
        Self { objects: BTreeMap::new(), listed: BTreeMap::new(), complete: false }
    }
}

impl<T> Known<T> {
    /// Takes in what happened to an object; `read` says what of it is kept, if anything.
    pub(super) fn apply<K: ResourceExt>(&mut self, event: Event<K>, read: impl Fn(&K) -> Option<T>) {
        match event {
            Event::Init => self.listed.clear(),
            Event::InitApply(object) => {
                if let Some(kept) = read(&object) {
                    self.listed.insert(object.name_any(), kept);
                }
            }
            Event::InitDone => {
                self.objects = std::mem::take(&mut self.listed);
                self.complete = true;
            }
            Event::Apply(object) => {
                match read(&object) {
                    Some(kept) => self.objects.insert(object.name_any(), kept),
                    None => self.objects.remove(&object.name_any()),
                };
            }
            Event::Delete(object) => {
                self.objects.remove(&object.name_any());
            }
        }
    }
}

/// What the objects come to.
#[derive(Debug, PartialEq)]
pub(super) struct View {
    /// Sorted by name.
    pub(super) services: Vec<Service>,
    /// Services whose route is not understood, and why.
    pub(super) malformed: Vec<(String, String)>,
    /// Paths that two claim: the path, who has it, and who does not.
    pub(super) conflicts: Vec<(String, String, String)>,
}

impl Table {
    /// What is known; `None` until both kinds were listed once.
    pub(super) fn view(&self) -> Option<View> {
        (self.services.complete && self.slices.complete).then(|| view(&self.services.objects, &self.slices.objects))
    }
}

/// Of two Services that claim one path, the older has it.
fn view(claims: &BTreeMap<String, Claim>, slices: &BTreeMap<String, Slice>) -> View {
    let mut by_age = Vec::with_capacity(claims.len());
    let mut malformed = Vec::new();
    for (name, claim) in claims {
        match &claim.route {
            Ok(route) => by_age.push((claim.since, name.as_str(), route)),
            Err(why) => malformed.push((name.clone(), why.clone())),
        }
    }
    // Of two that were made in the same second the name decides, as with the operator.
    by_age.sort_unstable_by_key(|(since, name, _)| (*since, *name));
    let mut slices_of: HashMap<&str, Vec<&Slice>> = HashMap::with_capacity(by_age.len());
    for slice in slices.values() {
        slices_of.entry(&slice.service).or_default().push(slice);
    }

    let mut owners: HashMap<&str, &str> = HashMap::with_capacity(by_age.len());
    let (mut services, mut conflicts) = (Vec::with_capacity(by_age.len()), Vec::new());
    for (_, name, route) in by_age {
        let mut paths = Vec::with_capacity(route.paths.len());
        for path in &route.paths {
            match *owners.entry(path).or_insert(name) {
                owner if owner == name => paths.push(path.clone()),
                owner => conflicts.push((path.clone(), owner.to_owned(), name.to_owned())),
            }
        }
        if !paths.is_empty() {
            let slices = slices_of.get(name).map_or(&[][..], Vec::as_slice);
            let http = addresses(slices.iter().flat_map(|slice| &slice.http));
            let grpc = route.grpc.then(|| addresses(slices.iter().flat_map(|slice| &slice.grpc)));
            services.push(Service { name: name.to_owned(), paths, http, grpc });
        }
    }
    services.sort_unstable_by(|one, other| one.name.cmp(&other.name));
    View { services, malformed, conflicts }
}

/// The ready ones, or where none is ready, those that end and still serve. A pod that has addresses of both families
/// is in two slices and is yet one endpoint: where there is the older family, it is the one that is used.
fn addresses<'a>(endpoints: impl Iterator<Item = &'a (SocketAddr, State)> + Clone) -> Vec<SocketAddr> {
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
