//! Conflicting names of components and operations.

use std::{collections::BTreeMap, time::Duration};

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::{document, keys, merge, merged, operation, service, text};

#[test]
fn only_components_that_differ_are_renamed() {
    let services = [service("inventory", &["/inventory"]), service("users", &["/users"])];
    let problem = json!({"type": "object"});
    let inventory = document(
        &json!({"/inventory": {"get": operation("Item"), "post": operation("Problem")}}),
        &json!({"Item": {"type": "integer"}, "Problem": problem, "Unused": {}}),
    );
    let users = document(
        &json!({"/users": {"get": operation("Item"), "post": operation("Problem")}}),
        &json!({"Item": {"type": "string"}, "Problem": problem}),
    );
    let document = merged(&services, vec![Ok(inventory), Ok(users)]);
    assert_eq!(keys(&document["components"]["schemas"]), ["Problem", "inventory.Item", "users.Item"]);
    assert_eq!(document["components"]["schemas"]["users.Item"], json!({"type": "string"}));
    let schema = document.pointer("/paths/~1users/get/responses/200/content/application~1json/schema");
    assert_eq!(schema, Some(&json!({"$ref": "#/components/schemas/users.Item"})));
}

#[test]
fn components_whose_references_differ_are_renamed() {
    let services = [service("a", &["/a"]), service("b", &["/b"])];
    let given = |path: &str, kind: &str| {
        let items = json!({"items": {"$ref": "#/components/schemas/List/$defs/x"}, "$defs": {"x": {"$ref": "#/components/schemas/Item"}}});
        Ok(document(&json!({path: {"get": operation("List")}}), &json!({"List": items, "Item": {"type": kind}})))
    };
    let document = merged(&services, vec![given("/a", "string"), given("/b", "integer")]);
    assert_eq!(keys(&document["components"]["schemas"]), ["a.Item", "a.List", "b.Item", "b.List"]);
    let list = &document["components"]["schemas"]["b.List"];
    assert_eq!(list["items"]["$ref"], "#/components/schemas/b.List/$defs/x");
    assert_eq!(list["$defs"]["x"]["$ref"], "#/components/schemas/b.Item");
}

#[test]
fn new_names_avoid_existing_names() {
    let services = [service("a", &["/a"]), service("b b", &["/b"])];
    let a = document(
        &json!({"/a": {"get": operation("X"), "put": operation("a.X")}}),
        &json!({"X": {"type": "string"}, "a.X": {}}),
    );
    let b = document(&json!({"/b": {"get": operation("X")}}), &json!({"X": {"type": "integer"}}));
    let document = merged(&services, vec![Ok(a), Ok(b)]);
    assert_eq!(keys(&document["components"]["schemas"]), ["a.X", "a.X.2", "b_b.X"]);
}

#[test]
fn operation_ids_are_unique() {
    let services = [service("a", &["/a"]), service("b", &["/b"])];
    let link = json!({"200": {"description": "", "links": {"next": {"operationId": "list"}}}});
    let a = json!({"/a": {"get": {"operationId": "list", "responses": link}, "put": {"operationId": "change"}}});
    let b = json!({"/b": {"get": {"operationId": "list"}, "put": {"operationId": "twice"}, "post": {"operationId": "twice"}}});
    let document = merged(&services, vec![Ok(document(&a, &json!({}))), Ok(document(&b, &json!({})))]);
    assert_eq!(document["paths"]["/a"]["get"]["operationId"], "a.list");
    assert_eq!(document["paths"]["/a"]["get"]["responses"]["200"]["links"]["next"]["operationId"], "a.list");
    assert_eq!(document["paths"]["/a"]["put"]["operationId"], "change");
    assert_eq!(document["paths"]["/b"]["get"]["operationId"], "b.list");
}

/// Otherwise the names of many would be as long as there are many, and take that long to find.
#[test]
fn ids_that_become_the_same_name_stay_short() {
    const COUNT: usize = 400;
    let signs = ["!", "$", "%", "&", "(", ")", "=", "?"];
    let id = |number: usize| (0..3).map(|place| signs[number / 8_usize.pow(place) % 8]).collect::<String>();
    let of = |path: &str| {
        let paths = (0..COUNT).map(|number| (format!("{path}/{number}"), json!({"get": {"operationId": id(number)}})));
        document(&paths.collect::<Map<_, _>>().into(), &json!({}))
    };
    let document = merged(&[service("a", &["/a"]), service("b", &["/b"])], vec![Ok(of("/a")), Ok(of("/b"))]);
    let paths = document["paths"].as_object().expect("paths");
    assert_eq!(paths.len(), 2 * COUNT);
    let longest = paths.values().filter_map(|item| item["get"]["operationId"].as_str()).map(str::len).max();
    assert!(longest.is_some_and(|length| length <= "a.___.400".len()), "{longest:?}");
}

/// A value with its references resolved, to a limited depth.
fn resolve(document: &Value, value: &Value, depth: usize) -> Value {
    match value {
        Value::Object(members) => {
            if let Some(Value::String(pointer)) = members.get("$ref") {
                let target = pointer.strip_prefix('#').and_then(|pointer| document.pointer(pointer));
                return if depth == 0 { Value::Null } else { resolve(document, target.expect("a target"), depth - 1) };
            }
            members
                .iter()
                .map(|(name, member)| (name.clone(), resolve(document, member, depth)))
                .collect::<Map<_, _>>()
                .into()
        }
        Value::Array(items) => items.iter().map(|item| resolve(document, item, depth)).collect(),
        other => other.clone(),
    }
}

/// Schemas A to D. Each has one of two types, and properties that refer to other schemas.
fn schemas() -> impl Strategy<Value = Value> {
    let schema = (any::<bool>(), proptest::collection::btree_map("[xy]", "[A-D]", 0..3));
    proptest::collection::vec(schema, 4).prop_map(|schemas| {
        let schema = |(is_text, properties): (bool, BTreeMap<String, String>)| {
            let property = |(name, target)| (name, json!({"$ref": format!("#/components/schemas/{target}")}));
            let properties: Map<_, _> = properties.into_iter().map(property).collect();
            json!({"type": if is_text { "string" } else { "integer" }, "properties": properties})
        };
        let named = ["A", "B", "C", "D"].into_iter().zip(schemas);
        named.map(|(name, parts)| (name.to_owned(), schema(parts))).collect::<Map<_, _>>().into()
    })
}

/// The CPU time of this thread. Unlike elapsed time, it does not depend on the load of the machine.
fn cpu_time() -> Duration {
    let times = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux");
    Duration::from_nanos(times.split(' ').next().and_then(|nanos| nanos.parse().ok()).expect("a time"))
}

#[test]
fn merging_takes_linear_time() {
    const COUNT: usize = 5000;
    let services = [service("a", &["/a"]), service("b", &["/b"])];
    // Each schema refers to the next one, and only the last ones differ.
    let document = |path: &str, last: &str| {
        let schemas = (0..COUNT).map(|number| {
            let next = json!({"$ref": format!("#/components/schemas/S{:05}", number + 1)});
            (format!("S{number:05}"), if number + 1 < COUNT { next } else { json!({"type": last}) })
        });
        let schemas: Map<String, Value> = schemas.collect();
        Ok(document(&json!({path: {"get": operation("S00000")}}), &schemas.into()))
    };
    let documents = vec![document("/a", "string"), document("/b", "integer")];
    let start = cpu_time();
    let merged = merged(&services, documents);
    let taken = cpu_time().saturating_sub(start);
    assert!(taken < Duration::from_secs(5), "{taken:?}");
    assert_eq!(merged["components"]["schemas"].as_object().map(Map::len), Some(2 * COUNT));
}

proptest! {
    #[test]
    fn operations_keep_their_meaning(of_services in proptest::collection::vec((schemas(), "[A-D]"), 1..4)) {
        let names = ["s0", "s1", "s2"];
        let services: Vec<_> = of_services.iter().zip(names).map(|(_, name)| service(name, &[&format!("/{name}")])).collect();
        let documents: Vec<_> = of_services.iter().zip(names).map(|((schemas, entry), name)| {
            document(&json!({format!("/{name}"): {"get": operation(entry)}}), schemas)
        }).collect();
        let whole = merged(&services, documents.iter().cloned().map(Ok).collect());
        let place = |name: &str| format!("/paths/~1{name}/get/responses");
        for (own, name) in documents.iter().zip(names) {
            let before = resolve(own, own.pointer(&place(name)).expect("there"), 6);
            let after = resolve(&whole, whole.pointer(&place(name)).expect("there"), 6);
            prop_assert_eq!(before, after);
        }
        // Merging is deterministic.
        prop_assert_eq!(merge(&services, documents.into_iter().map(|document| Ok(text(document)))), whole);
    }
}
