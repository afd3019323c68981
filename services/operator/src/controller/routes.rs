//! Resolves which service gets which path. If two objects claim a path, the older one wins.

use std::borrow::Borrow;

use kube::ResourceExt;

use api::Microservice;

/// The result for one object.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct RouteClaims {
    /// The paths that it gets.
    pub(crate) accepted: Vec<String>,
    /// The paths that it does not get, each with the object that does.
    pub(crate) conflicts: Vec<(String, String)>,
}

/// Resolves the paths of `object` among `all`.
pub(crate) fn resolve(object: &Microservice, all: &[impl Borrow<Microservice>]) -> RouteClaims {
    let mut claims = RouteClaims::default();
    for path in paths(object) {
        let competitors = all
            .iter()
            .map(Borrow::borrow)
            .filter(|other: &&Microservice| paths(other).contains(path) && precedence(other) < precedence(object));
        match competitors.min_by_key(|other| precedence(other)) {
            Some(older) => claims.conflicts.push((path.clone(), older.name_any())),
            None => claims.accepted.push(path.clone()),
        }
    }
    claims
}

/// The paths that an object claims.
pub(crate) fn paths(object: &Microservice) -> &[String] {
    object.spec.route.as_ref().map_or(&[], |route| &route.paths)
}

/// Orders by age, then by name for objects created in the same second.
fn precedence(object: &Microservice) -> (Option<i64>, String) {
    (object.creation_timestamp().map(|time| time.0.as_second()), object.name_any())
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};

    fn object(name: &str, age: i64, paths: &[&str]) -> Microservice {
        let spec = serde_json::json!({ "image": "x:1", "route": { "paths": paths } });
        let mut object = Microservice::new(name, serde_json::from_value(spec).expect("a spec"));
        object.metadata.creation_timestamp = Timestamp::from_second(1_000_000 - age).ok().map(Time);
        object
    }

    #[test]
    fn the_older_object_keeps_the_path() {
        let all = [object("young", 1, &["/a", "/b"]), object("old", 2, &["/a"]), object("other", 9, &["/c"])];
        let young = resolve(&all[0], &all);
        assert_eq!(young.accepted, ["/b"]);
        assert_eq!(young.conflicts, [("/a".to_owned(), "old".to_owned())]);
        assert_eq!(resolve(&all[1], &all), RouteClaims { accepted: vec!["/a".into()], conflicts: vec![] });
    }

    #[test]
    fn objects_of_the_same_age_are_ordered_by_name() {
        let all = [object("b", 1, &["/x"]), object("a", 1, &["/x"])];
        assert_eq!(resolve(&all[0], &all).conflicts, [("/x".to_owned(), "a".to_owned())]);
        assert!(resolve(&all[1], &all).conflicts.is_empty());
    }
}
