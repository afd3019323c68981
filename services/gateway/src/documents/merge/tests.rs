use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    time::Duration,
};

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::*;

fn service(name: &str, paths: &[&str]) -> Service {
    Service {
        name: name.to_owned(),
        paths: paths.iter().map(|path| (*path).to_owned()).collect(),
        http: Vec::new(),
        grpc: None,
    }
}

fn of_schema(schema: &str) -> Value {
    let schema = json!({"$ref": format!("#/components/schemas/{schema}")});
    json!({"responses": {"200": {"description": "", "content": {"application/json": {"schema": schema}}}}})
}

fn document(paths: &Value, schemas: &Value) -> Value {
    let info = json!({"title": "a", "version": "1", "description": "About it."});
    json!({"openapi": "3.1.0", "info": info, "paths": paths, "components": {"schemas": schemas}})
}

/// Merges, and checks what every merged document must keep.
fn merged(services: &[Service], documents: Vec<Result<Value, Absence>>) -> Value {
    let document = merge(services, documents);
    check(&document, &document);
    let operations = document["paths"].as_object().expect("paths").values();
    let operations: Vec<_> = operations.flat_map(|item| item.as_object().expect("a path").values()).collect();
    let names: Vec<_> = operations.iter().filter_map(|operation| operation["operationId"].as_str()).collect();
    assert_eq!(names.len(), names.iter().collect::<HashSet<_>>().len(), "{names:?}");
    let used: BTreeSet<_> = operations
        .iter()
        .flat_map(|operation| operation["tags"].as_array().expect("tags"))
        .map(|tag| tag.as_str())
        .collect();
    let tags: Vec<_> = document["tags"].as_array().expect("tags").iter().map(|tag| tag["name"].as_str()).collect();
    assert_eq!(used.into_iter().collect::<Vec<_>>(), tags);
    let components = document["components"].as_object().expect("components").values();
    for name in components.flat_map(|section| section.as_object().expect("a section").keys()) {
        assert!(name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte)), "{name}");
    }
    document
}

/// Checks that no reference is dangling.
fn check(document: &Value, part: &Value) {
    match part {
        Value::Object(members) => {
            if let Some(Value::String(pointer)) = members.get("$ref") {
                let target = pointer.strip_prefix('#').and_then(|pointer| document.pointer(pointer));
                assert!(target.is_some(), "{pointer}");
            }
            members.values().for_each(|member| check(document, member));
        }
        Value::Array(parts) => parts.iter().for_each(|part| check(document, part)),
        _ => {}
    }
}

fn keys(object: &Value) -> Vec<&str> {
    object.as_object().map(|members| members.keys().map(String::as_str).collect()).unwrap_or_default()
}

#[test]
fn each_service_brings_the_paths_that_are_routed_to_it() {
    let services = [service("admin", &["/users/admin"]), service("users", &["/users", "/friends"])];
    let paths = |paths: &[&str]| {
        let paths = paths.iter().map(|path| ((*path).to_owned(), json!({"get": {"responses": {}}})));
        Ok(document(&Value::Object(paths.collect()), &json!({})))
    };
    let own = ["/users", "/users/{id}", "/users/admin/rights", "/usersaurus", "/friends", "/livez", "/openapi.json"];
    let document = merged(&services, vec![paths(&["/users/admin", "/users/{id}"]), paths(&own)]);
    assert_eq!(keys(&document["paths"]), ["/friends", "/users", "/users/admin", "/users/{id}"]);
    assert_eq!(document["paths"]["/users/admin"]["get"]["tags"], json!(["admin"]));
    assert_eq!(document["servers"], json!([{"url": "/"}]));
    assert_eq!(document["openapi"], "3.1.0");
}

#[test]
fn a_catch_all_brings_what_no_other_has() {
    let services = [service("users", &["/users"]), service("web", &["/"])];
    let both = || Ok(document(&json!({"/users": {"get": {}}, "/": {"get": {}}, "/about": {"get": {}}}), &json!({})));
    let document = merged(&services, vec![both(), both()]);
    let tag = |path: &str| document["paths"][path]["get"]["tags"][0].as_str();
    assert_eq!((tag("/users"), tag("/"), tag("/about")), (Some("users"), Some("web"), Some("web")));
}

#[test]
fn where_a_document_says_its_paths_are_counts_and_its_hosts_do_not() {
    let services = [service("users", &["/api/users"])];
    let item = || json!({"servers": [{"url": "http://x"}], "get": {"servers": [{"url": "http://y"}], "responses": {}}});
    for server in ["/api", "/api/", "http://localhost:8081/api"] {
        let mut given = document(&json!({"/users": item()}), &json!({}));
        given["servers"] = json!([{"url": server}]);
        let document = merged(&services, vec![Ok(given)]);
        assert_eq!(document["paths"]["/api/users"], json!({"get": {"responses": {}, "tags": ["users"]}}), "{server}");
    }
}

#[test]
fn components_that_are_the_same_are_one_and_others_get_their_services_names() {
    let services = [service("inventory", &["/inventory"]), service("users", &["/users"])];
    let problem = json!({"type": "object"});
    let inventory = document(
        &json!({"/inventory": {"get": of_schema("Item"), "post": of_schema("Problem")}}),
        &json!({"Item": {"type": "integer"}, "Problem": problem, "Unused": {}}),
    );
    let users = document(
        &json!({"/users": {"get": of_schema("Item"), "post": of_schema("Problem")}}),
        &json!({"Item": {"type": "string"}, "Problem": problem}),
    );
    let document = merged(&services, vec![Ok(inventory), Ok(users)]);
    assert_eq!(keys(&document["components"]["schemas"]), ["Problem", "inventory.Item", "users.Item"]);
    assert_eq!(document["components"]["schemas"]["users.Item"], json!({"type": "string"}));
    let schema = document.pointer("/paths/~1users/get/responses/200/content/application~1json/schema");
    assert_eq!(schema, Some(&json!({"$ref": "#/components/schemas/users.Item"})));
}

#[test]
fn components_that_read_the_same_are_not_where_they_refer_to_others() {
    let services = [service("a", &["/a"]), service("b", &["/b"])];
    let given = |path: &str, kind: &str| {
        let items = json!({"items": {"$ref": "#/components/schemas/List/$defs/x"}, "$defs": {"x": {"$ref": "#/components/schemas/Item"}}});
        Ok(document(&json!({path: {"get": of_schema("List")}}), &json!({"List": items, "Item": {"type": kind}})))
    };
    let document = merged(&services, vec![given("/a", "string"), given("/b", "integer")]);
    assert_eq!(keys(&document["components"]["schemas"]), ["a.Item", "a.List", "b.Item", "b.List"]);
    let list = &document["components"]["schemas"]["b.List"];
    assert_eq!(list["items"]["$ref"], "#/components/schemas/b.List/$defs/x");
    assert_eq!(list["$defs"]["x"]["$ref"], "#/components/schemas/b.Item");
}

#[test]
fn a_new_name_is_none_that_is_there() {
    let services = [service("a", &["/a"]), service("b b", &["/b"])];
    let a = document(
        &json!({"/a": {"get": of_schema("X"), "put": of_schema("a.X")}}),
        &json!({"X": {"type": "string"}, "a.X": {}}),
    );
    let b = document(&json!({"/b": {"get": of_schema("X")}}), &json!({"X": {"type": "integer"}}));
    let document = merged(&services, vec![Ok(a), Ok(b)]);
    assert_eq!(keys(&document["components"]["schemas"]), ["a.X", "a.X_", "b_b.X"]);
}

#[test]
fn operations_have_names_of_their_own() {
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

#[test]
fn what_is_said_for_a_whole_document_is_said_of_each_operation() {
    let services = [service("a", &["/a"]), service("b", &["/b"])];
    let given = |path: &str, scheme: &Value| {
        let paths = json!({path: {"get": {}, "post": {"security": []}}});
        let mut document = document(&paths, &json!({}));
        document["security"] = json!([{"login": []}]);
        document["components"]["securitySchemes"] = json!({"login": scheme});
        Ok(document)
    };
    let basic = json!({"type": "http", "scheme": "basic"});
    let bearer = json!({"type": "http", "scheme": "bearer"});
    let document = merged(&services, vec![given("/a", &basic), given("/b", &bearer)]);
    assert_eq!(document["paths"]["/b"]["get"]["security"], json!([{"b.login": []}]));
    assert_eq!(document["paths"]["/b"]["post"]["security"], json!([]));
    assert_eq!(document["components"]["securitySchemes"], json!({"a.login": basic, "b.login": bearer}));
    assert_eq!(document["security"], Value::Null);
}

#[test]
fn operations_are_found_under_their_service() {
    let services = [service("users", &["/users"])];
    let paths = json!({"/users": {"get": {"tags": ["Users"]}, "put": {"tags": ["wishlist"]}, "post": {}}});
    let mut given = document(&paths, &json!({}));
    given["tags"] = json!([{"name": "wishlist", "description": "What they wish for."}]);
    let document = merged(&services, vec![Ok(given)]);
    let expected = json!([
        {"name": "users", "description": "About it."},
        {"name": "users: wishlist", "description": "What they wish for."},
    ]);
    assert_eq!(document["tags"], expected);
}

#[test]
fn a_service_without_a_usable_document_is_named_and_the_others_are_shown() {
    let names = ["absent", "dangling", "deep", "external", "good", "odd", "relative", "scheme", "strange", "swagger"];
    let services = names.map(|name| service(name, &[&format!("/{name}")]));
    let reference = |pointer: &str| json!({"get": {"responses": {"200": {"$ref": pointer}}}});
    let documents = vec![
        Err(Absence::NoAnswer),
        Ok(document(&json!({"/dangling": {"get": of_schema("Lost")}}), &json!({}))),
        Ok(document(&json!({"/deep": {"get": of_schema("A/properties/lost")}}), &json!({"A": {"properties": {}}}))),
        Ok(document(&json!({"/external": reference("https://example.org/a.json#/x")}), &json!({}))),
        Ok(document(&json!({"/good": {"get": of_schema("A")}}), &json!({"A": {}}))),
        Ok(document(&json!({"/elsewhere": {"get": {}}}), &json!({}))),
        Ok(document(&json!({"/relative": reference("other.json")}), &json!({}))),
        Ok(document(&json!({"/scheme": {"get": {"security": [{"lost": []}]}}}), &json!({}))),
        Ok(json!({"openapi": "3.1.0", "paths": {"/strange": "what"}})),
        Ok(json!({"swagger": "2.0", "paths": {}})),
    ];
    let document = merge(&services, documents);
    assert_eq!(keys(&document["paths"]), ["/external", "/good"]);
    let absent = document["x-hedgerow-unavailable"].as_array().expect("a list");
    let absent: Vec<_> =
        absent.iter().filter_map(|absent| Some((absent["service"].as_str()?, absent["reason"].as_str()?))).collect();
    let expected = [
        ("absent", Absence::NoAnswer),
        ("dangling", Absence::Dangling),
        ("deep", Absence::Dangling),
        ("odd", Absence::NothingRouted),
        ("relative", Absence::Dangling),
        ("scheme", Absence::Dangling),
        ("strange", Absence::NotOpenApi),
        ("swagger", Absence::NotOpenApi),
    ];
    assert_eq!(absent, expected.map(|(service, absence)| (service, absence.reason())));
    let description = document["info"]["description"].as_str().expect("text");
    assert!(description.contains("**absent**: it does not answer"), "{description}");
}

#[test]
fn without_services_it_is_an_empty_document() {
    let document = merged(&[], Vec::new());
    assert_eq!(document["paths"], json!({}));
    assert_eq!(document["x-hedgerow-unavailable"], json!([]));
}

#[test]
fn an_older_document_is_brought_up_to_date() {
    let mut given =
        document(&json!({"/a": {"get": of_schema("A")}}), &json!({"A": {"type": "string", "nullable": true}}));
    given["openapi"] = "3.0.3".into();
    let document = merged(&[service("a", &["/a"])], vec![Ok(given)]);
    assert_eq!(document["components"]["schemas"]["A"], json!({"type": ["string", "null"]}));
}

/// A part with what it refers to in its place, so many levels deep: what a reader takes it to mean.
fn meaning(document: &Value, part: &Value, depth: usize) -> Value {
    match part {
        Value::Object(members) => {
            if let Some(Value::String(pointer)) = members.get("$ref") {
                let target = pointer.strip_prefix('#').and_then(|pointer| document.pointer(pointer));
                return if depth == 0 { Value::Null } else { meaning(document, target.expect("a target"), depth - 1) };
            }
            members
                .iter()
                .map(|(name, member)| (name.clone(), meaning(document, member, depth)))
                .collect::<Map<_, _>>()
                .into()
        }
        Value::Array(parts) => parts.iter().map(|part| meaning(document, part, depth)).collect(),
        other => other.clone(),
    }
}

/// Schemas A to D: each of one of two types, with properties of others of them.
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

/// How long this thread has had a processor, which leaves out all that the machine does besides.
fn on_processor() -> Duration {
    let times = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux");
    Duration::from_nanos(times.split(' ').next().and_then(|nanos| nanos.parse().ok()).expect("a time"))
}

#[test]
fn it_takes_no_longer_than_the_documents_are_long() {
    const COUNT: usize = 5000;
    let services = [service("a", &["/a"]), service("b", &["/b"])];
    // Each schema refers to the next one, and the last ones differ.
    let document = |path: &str, last: &str| {
        let schemas = (0..COUNT).map(|number| {
            let next = json!({"$ref": format!("#/components/schemas/S{:05}", number + 1)});
            (format!("S{number:05}"), if number + 1 < COUNT { next } else { json!({"type": last}) })
        });
        let schemas: Map<String, Value> = schemas.collect();
        Ok(document(&json!({path: {"get": of_schema("S00000")}}), &schemas.into()))
    };
    let documents = vec![document("/a", "string"), document("/b", "integer")];
    let begun = on_processor();
    let merged = merged(&services, documents);
    let taken = on_processor().saturating_sub(begun);
    assert!(taken < Duration::from_secs(5), "{taken:?}");
    assert_eq!(merged["components"]["schemas"].as_object().map(Map::len), Some(2 * COUNT));
}

proptest! {
    #[test]
    fn every_operation_means_what_it_meant(of_services in proptest::collection::vec((schemas(), "[A-D]"), 1..4)) {
        let names = ["s0", "s1", "s2"];
        let services: Vec<_> = of_services.iter().zip(names).map(|(_, name)| service(name, &[&format!("/{name}")])).collect();
        let documents: Vec<_> = of_services.iter().zip(names).map(|((schemas, entry), name)| {
            document(&json!({format!("/{name}"): {"get": of_schema(entry)}}), schemas)
        }).collect();
        let whole = merged(&services, documents.iter().cloned().map(Ok).collect());
        let place = |name: &str| format!("/paths/~1{name}/get/responses");
        for (own, name) in documents.iter().zip(names) {
            let given = meaning(own, own.pointer(&place(name)).expect("there"), 6);
            let found = meaning(&whole, whole.pointer(&place(name)).expect("there"), 6);
            prop_assert_eq!(given, found);
        }
        // And the same twice is the same.
        prop_assert_eq!(merge(&services, documents.into_iter().map(Ok)), whole);
    }
}
