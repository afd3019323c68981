//! Which objects a change of `calls` concerns: a callee's network policy names its callers, and a caller's environment
//! has the port of its callee.

use std::borrow::Borrow;

use kube::ResourceExt;

use api::Microservice;

/// Returns those of `all` that `object` calls or called `before`, and those that call it.
pub(crate) fn peers<T: Borrow<Microservice>>(object: &Microservice, before: &[String], all: Vec<T>) -> Vec<T> {
    let name = object.name_any();
    let is_peer = |other: &Microservice| {
        let callee = other.name_any();
        object.spec.calls.contains(&callee) || before.contains(&callee) || other.spec.calls.contains(&name)
    };
    all.into_iter().filter(|other| is_peer(other.borrow())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(name: &str, calls: &[&str]) -> Microservice {
        let spec = serde_json::json!({ "image": "x:1", "calls": calls });
        Microservice::new(name, serde_json::from_value(spec).expect("a spec"))
    }

    #[test]
    fn change_concerns_callees_now_and_before_and_callers() {
        let all = [object("users", &["inventory"]), object("inventory", &[]), object("gateway", &[])];
        let names = |object: &Microservice, before: &[&str]| {
            let before: Vec<_> = before.iter().map(|name| (*name).to_owned()).collect();
            peers(object, &before, all.iter().collect()).into_iter().map(ResourceExt::name_any).collect::<Vec<_>>()
        };
        assert_eq!(names(&all[0], &[]), ["inventory"]);
        assert_eq!(names(&object("users", &[]), &["inventory"]), ["inventory"], "it no longer admits users");
        assert_eq!(names(&all[1], &[]), ["users"], "its port may have changed");
        assert_eq!(names(&all[2], &[]), [""; 0]);
    }
}
