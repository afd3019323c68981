//! Resolves which service gets which path. If two objects claim a path, the older one wins. The paths of the issuer are its
//! own, and so is what is below them: the gateway prefers longer paths, and whoever had `/auth/login` would get passwords.

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

/// Resolves the paths of `object` among `all`. `issuer` is the name of the object that issues the tokens of users, if one
/// does.
pub(crate) fn resolve(object: &Microservice, all: &[impl Borrow<Microservice>], issuer: Option<&str>) -> RouteClaims {
    let is_issuer = |object: &Microservice| Some(&*object.name_any()) == issuer;
    let has_priority = |other: &Microservice, path: &String| match (is_issuer(object), is_issuer(other)) {
        (true, _) => false,
        (false, true) => paths(other).iter().any(|own| is_at_or_below(path, own)),
        (false, false) => paths(other).contains(path) && precedence(other) < precedence(object),
    };
    let mut claims = RouteClaims::default();
    for path in paths(object) {
        let competitors = all.iter().map(Borrow::borrow).filter(|other| has_priority(other, path));
        match competitors.min_by_key(|other| precedence(other)) {
            Some(other) => claims.conflicts.push((path.clone(), other.name_any())),
            None => claims.accepted.push(path.clone()),
        }
    }
    claims
}

/// Whether a path is another one or continues it by whole segments. `/` is only itself: it is for what nobody claims.
pub(crate) fn is_at_or_below(path: &str, other: &str) -> bool {
    path.strip_prefix(other).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
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
        let young = resolve(&all[0], &all, None);
        assert_eq!(young.accepted, ["/b"]);
        assert_eq!(young.conflicts, [("/a".to_owned(), "old".to_owned())]);
        assert_eq!(resolve(&all[1], &all, None), RouteClaims { accepted: vec!["/a".into()], conflicts: vec![] });
    }

    #[test]
    fn objects_of_the_same_age_are_ordered_by_name() {
        let all = [object("b", 1, &["/x"]), object("a", 1, &["/x"])];
        assert_eq!(resolve(&all[0], &all, None).conflicts, [("/x".to_owned(), "a".to_owned())]);
        assert!(resolve(&all[1], &all, None).conflicts.is_empty());
    }

    #[test]
    fn nobody_gets_a_path_of_the_issuer_or_one_below() {
        let claimed = ["/auth", "/auth/login", "/oauth2/token/x", "/authors", "/", "/users-old"];
        let all = [object("old", 9, &claimed), object("users", 1, &["/users", "/auth", "/oauth2/token"])];
        let own =
            |paths: &[&str]| paths.iter().map(|path| ((*path).to_owned(), "users".to_owned())).collect::<Vec<_>>();
        let old = resolve(&all[0], &all, Some("users"));
        assert_eq!(old.conflicts, own(&claimed[..3]));
        assert_eq!(old.accepted, claimed[3..]);
        assert_eq!(resolve(&all[1], &all, Some("users")).accepted, ["/users", "/auth", "/oauth2/token"]);
        // Without an issuer, the older one wins.
        assert_eq!(resolve(&all[0], &all, None).accepted, claimed);
        assert_eq!(resolve(&all[1], &all, None).conflicts, [("/auth".to_owned(), "old".to_owned())]);
        // An issuer whose route is the rest keeps nobody else from having one.
        let all = [object("orders", 1, &["/orders"]), object("users", 9, &["/"])];
        assert_eq!(resolve(&all[0], &all, Some("users")).accepted, ["/orders"]);
    }
}
