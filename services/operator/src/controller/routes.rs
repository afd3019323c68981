//! Which paths the gateway gives to which service: the older object keeps a path that two ask for.

use std::borrow::Borrow;

use kube::ResourceExt;

use api::Microservice;

/// The paths of `object` that it gets, and those that another has, with that other's name.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Verdict {
    pub(crate) accepted: Vec<String>,
    pub(crate) taken: Vec<(String, String)>,
}

/// Judges the paths of `object` among `all`.
pub(crate) fn judge(object: &Microservice, all: &[impl Borrow<Microservice>]) -> Verdict {
    let mut verdict = Verdict::default();
    for path in paths(object) {
        let rivals = all
            .iter()
            .map(Borrow::borrow)
            .filter(|other: &&Microservice| paths(other).contains(path) && seniority(other) < seniority(object));
        match rivals.min_by_key(|other| seniority(other)) {
            Some(older) => verdict.taken.push((path.clone(), older.name_any())),
            None => verdict.accepted.push(path.clone()),
        }
    }
    verdict
}

/// Those of `all` whose verdict a change of `object` may change: they ask for a path that it asks for, or did `before`.
pub(crate) fn rivals<T: Borrow<Microservice>>(object: &Microservice, before: &[String], all: Vec<T>) -> Vec<T> {
    let concerned = |path: &String| paths(object).contains(path) || before.contains(path);
    let is_rival = |other: &Microservice| other.name_any() != object.name_any() && paths(other).iter().any(concerned);
    all.into_iter().filter(|other| is_rival(other.borrow())).collect()
}

/// The paths that an object asks for.
pub(crate) fn paths(object: &Microservice) -> &[String] {
    object.spec.route.as_ref().map_or(&[], |route| &route.paths)
}

/// Age first; of two that were made in the same second, the name decides.
fn seniority(object: &Microservice) -> (Option<i64>, String) {
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
        let young = judge(&all[0], &all);
        assert_eq!(young.accepted, ["/b"]);
        assert_eq!(young.taken, [("/a".to_owned(), "old".to_owned())]);
        assert_eq!(judge(&all[1], &all), Verdict { accepted: vec!["/a".into()], taken: vec![] });
    }

    #[test]
    fn a_change_concerns_those_who_ask_for_the_same_path_now_or_did_before() {
        let all = [object("one", 1, &["/a", "/b"]), object("two", 2, &["/a"]), object("three", 3, &["/c"])];
        let names = |of: &Microservice, before: &[&str]| {
            let before: Vec<_> = before.iter().map(|path| (*path).to_owned()).collect();
            rivals(of, &before, all.iter().collect()).into_iter().map(ResourceExt::name_any).collect::<Vec<_>>()
        };
        assert_eq!(names(&all[0], &[]), ["two"]);
        assert_eq!(names(&all[2], &[]), [""; 0]);
        assert_eq!(names(&all[2], &["/a", "/c"]), ["one", "two"], "it gives up a path that they wait for");
    }

    #[test]
    fn of_twins_the_name_decides() {
        let all = [object("b", 1, &["/x"]), object("a", 1, &["/x"])];
        assert_eq!(judge(&all[0], &all).taken, [("/x".to_owned(), "a".to_owned())]);
        assert!(judge(&all[1], &all).taken.is_empty());
    }
}
