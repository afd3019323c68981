//! The last known specifications of objects, and which other objects a change of one concerns: the competitors for its
//! paths, the callees whose network policies name it, the callers whose environment has its port, and those whose
//! variables come from the Secret of its database server.

use std::{
    borrow::Borrow,
    collections::{HashMap, HashSet},
    hash::{DefaultHasher, Hash, Hasher},
};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;

use super::{routes, secret_references};
use api::{Microservice, finalizers};

/// The last known specification of each object, by name.
#[derive(Default)]
pub(crate) struct KnownObjects(HashMap<String, KnownObject>);

/// What is known of an object.
struct KnownObject {
    uid: Option<String>,
    generation: Option<i64>,
    /// A hash.
    annotations: u64,
    /// Whether it has the operator's finalizer.
    has_finalizer: bool,
    shared: Shared,
}

impl KnownObject {
    /// Whether becoming `now` is no change that concerns a reconcile. That the operator adds its finalizer is none, but
    /// that someone removes it is one.
    fn is_unchanged_by(&self, now: &Self) -> bool {
        (&self.uid, self.generation, self.annotations) == (&now.uid, now.generation, now.annotations)
            && self.has_finalizer <= now.has_finalizer
    }
}

/// The parts of a spec that concern other objects.
#[derive(Default, Clone, PartialEq)]
struct Shared {
    paths: Vec<String>,
    calls: Vec<String>,
    /// The Secret of its database server.
    server: Option<String>,
}

/// A change of an object's specification.
pub(crate) struct Change {
    pub(crate) name: String,
    before: Shared,
    now: Shared,
}

/// A deleted object.
pub(crate) struct Deletion {
    pub(crate) uid: Option<String>,
    pub(crate) change: Change,
}

impl KnownObjects {
    /// Records an object. Returns `None` if its specification is unchanged.
    pub(crate) fn update(&mut self, object: &Microservice) -> Option<Change> {
        let ObjectMeta { uid, generation, annotations, .. } = &object.metadata;
        let mut hasher = DefaultHasher::new();
        annotations.hash(&mut hasher);
        let shared = Shared {
            paths: routes::paths(object).to_vec(),
            calls: object.spec.calls.clone(),
            server: object.spec.database.as_ref().and_then(|database| database.server.clone()),
        };
        let known = KnownObject {
            uid: uid.clone(),
            generation: *generation,
            annotations: hasher.finish(),
            has_finalizer: object.finalizers().iter().any(|finalizer| finalizer == finalizers::DATABASE),
            shared: shared.clone(),
        };
        let name = object.name_any();
        let is_unchanged = self.0.get(&name).is_some_and(|before| before.is_unchanged_by(&known));
        let before = self.0.insert(name.clone(), known).map(|before| before.shared).unwrap_or_default();
        (!is_unchanged).then_some(Change { name, before, now: shared })
    }

    /// Removes a deleted object. Returns `None` if it was not known.
    pub(crate) fn remove(&mut self, name: &str) -> Option<Deletion> {
        let (name, KnownObject { uid, shared, .. }) = self.0.remove_entry(name)?;
        Some(Deletion { uid, change: Change { name, before: shared, now: Shared::default() } })
    }

    /// Removes the object that had the name of `object` before, if it was another one.
    pub(crate) fn remove_predecessor(&mut self, object: &Microservice) -> Option<Deletion> {
        let name = object.name_any();
        self.0.get(&name).is_some_and(|known| known.uid != object.metadata.uid).then(|| self.remove(&name)).flatten()
    }

    /// Removes all objects except these, and returns those that were removed.
    pub(crate) fn retain(&mut self, names: &HashSet<String>) -> Vec<Deletion> {
        let gone: Vec<String> = self.0.keys().filter(|name| !names.contains(*name)).cloned().collect();
        gone.iter().filter_map(|name| self.remove(name)).collect()
    }
}

impl Change {
    /// The other objects of `all` that the change concerns.
    pub(crate) fn affected<'a, T: Borrow<Microservice>>(&self, all: &'a [T]) -> impl Iterator<Item = &'a T> {
        let is_affected = |other: &Microservice| {
            other.metadata.name.as_ref() != Some(&self.name)
                && (self.competes_with(other) || self.calls_or_is_called_by(other) || self.protects_secret_of(other))
        };
        all.iter().filter(move |other| is_affected((*other).borrow()))
    }

    fn competes_with(&self, other: &Microservice) -> bool {
        let mut claimed = self.now.paths.iter().chain(&self.before.paths);
        claimed.any(|own| routes::paths(other).iter().any(|path| routes::is_at_or_below(path, own)))
    }

    fn calls_or_is_called_by(&self, other: &Microservice) -> bool {
        let calls = |calls: &[String]| other.metadata.name.as_ref().is_some_and(|callee| calls.contains(callee));
        calls(&self.now.calls) || calls(&self.before.calls) || other.spec.calls.contains(&self.name)
    }

    /// Whether variables of another object come from a Secret that becomes, or no longer is, one of a server.
    fn protects_secret_of(&self, other: &Microservice) -> bool {
        let (now, before) = (self.now.server.as_deref(), self.before.server.as_deref());
        now != before && secret_references::names(other).any(|name| now == Some(name) || before == Some(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(name: &str, paths: &[&str], calls: &[&str]) -> Microservice {
        let route = if paths.is_empty() { serde_json::Value::Null } else { serde_json::json!({ "paths": paths }) };
        let spec = serde_json::json!({ "image": "x:1", "route": route, "calls": calls });
        Microservice::new(name, serde_json::from_value(spec).expect("a spec"))
    }

    fn affected(change: &Change, all: &[Microservice]) -> Vec<String> {
        change.affected(all).map(ResourceExt::name_any).collect()
    }

    /// Those of `all` that are affected if `before` changes to `now`.
    fn affected_by(before: &Microservice, now: &Microservice, all: &[Microservice]) -> Vec<String> {
        let mut known = KnownObjects::default();
        known.update(before);
        let mut now = now.clone();
        now.metadata.generation = Some(2);
        affected(&known.update(&now).expect("a change"), all)
    }

    #[test]
    fn change_concerns_callees_now_and_before_and_callers() {
        let all = [object("users", &[], &["inventory"]), object("inventory", &[], &[]), object("gateway", &[], &[])];
        assert_eq!(affected_by(&all[0], &all[0], &all), ["inventory"]);
        assert_eq!(affected_by(&all[0], &object("users", &[], &[]), &all), ["inventory"], "it no longer admits users");
        assert_eq!(affected_by(&all[1], &all[1], &all), ["users"], "its port may have changed");
        assert_eq!(affected_by(&all[2], &all[2], &all), [""; 0]);
    }

    #[test]
    fn change_concerns_claimants_of_current_and_former_paths() {
        let all = [object("one", &["/a", "/b"], &[]), object("two", &["/a"], &[]), object("three", &["/c"], &[])];
        assert_eq!(affected_by(&all[0], &all[0], &all), ["two"]);
        assert_eq!(affected_by(&all[2], &all[2], &all), [""; 0]);
        let before = object("three", &["/a", "/c"], &[]);
        assert_eq!(affected_by(&before, &all[2], &all), ["one", "two"], "it gives up a path that they claim");
        let above = object("three", &["/"], &[]);
        let below = [object("one", &["/a/b"], &[]), object("two", &["/ab"], &[]), above.clone()];
        assert_eq!(
            affected_by(&above, &object("three", &["/a"], &[]), &below),
            ["one"],
            "an issuer claims what is below"
        );
    }

    #[test]
    fn change_concerns_those_whose_variables_name_its_server() {
        let mut orders = object("orders", &[], &[]);
        let source = serde_json::json!({ "secretKeyRef": { "name": "spare-postgres", "key": "url" } });
        let env = serde_json::json!([{ "name": "TOKEN", "valueFrom": source }]);
        orders.spec.env = serde_json::from_value(env).expect("variables");
        let all = [orders, object("users", &[], &[])];
        let mut with_server = all[1].clone();
        let database = serde_json::json!({ "server": "spare-postgres" });
        with_server.spec.database = Some(serde_json::from_value(database).expect("a database"));
        assert_eq!(affected_by(&all[1], &with_server, &all), ["orders"]);
        assert_eq!(affected_by(&with_server, &with_server, &all), [""; 0]);
        let mut known = KnownObjects::default();
        known.update(&with_server);
        assert_eq!(affected(&known.remove("users").expect("it was known").change, &all), ["orders"]);
    }

    #[test]
    fn objects_missing_from_a_list_are_removed() {
        let all = [object("one", &["/a"], &[]), object("two", &["/a"], &[])];
        let mut known = KnownObjects::default();
        for object in &all {
            assert!(known.update(object).is_some());
            assert!(known.update(object).is_none(), "it is unchanged");
        }
        let removed = known.retain(&["two".to_owned()].into());
        let [Deletion { change, .. }] = removed.as_slice() else { panic!("{} were removed", removed.len()) };
        assert_eq!(change.name, "one");
        assert_eq!(affected(change, &all[1..]), ["two"]);
        assert!(known.update(&all[0]).is_some(), "it is new again");
        assert!(known.update(&all[1]).is_none());
    }

    #[test]
    fn removing_the_finalizer_is_a_change() {
        let mut known = KnownObjects::default();
        let bare = object("one", &[], &[]);
        known.update(&bare);
        let mut held = bare.clone();
        held.metadata.finalizers = Some(vec![finalizers::DATABASE.to_owned()]);
        assert!(known.update(&held).is_none(), "the operator adds it");
        assert!(known.update(&bare).is_some());
    }

    #[test]
    fn an_object_made_again_has_a_predecessor() {
        let mut object = object("one", &["/a"], &[]);
        object.metadata.uid = Some("first".to_owned());
        let mut known = KnownObjects::default();
        assert!(known.remove_predecessor(&object).is_none());
        known.update(&object);
        assert!(known.remove_predecessor(&object).is_none(), "it is the same");
        object.metadata.uid = Some("second".to_owned());
        let removed = known.remove_predecessor(&object).expect("a predecessor");
        assert_eq!(removed.uid.as_deref(), Some("first"));
    }
}
