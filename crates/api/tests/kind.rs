//! The rules of the kind, checked without a cluster.

use api::admit;
use test_support::admission::{self as cases, Case};

/// Asserts that each case of a table is accepted, or refused for the expected reason.
fn check(table: fn() -> Vec<Case>) {
    for case in table() {
        let (old, object) = case.objects();
        let result = admit(&object, old.as_ref()).map(drop).map_err(|refused| refused.to_string());
        match (case.refusal, result) {
            (None, Ok(())) => {}
            (Some(expected), Err(refusal)) => assert!(refusal.contains(expected), "{object}: {refusal}"),
            (_, result) => panic!("{object}: {result:?}"),
        }
    }
}

#[test]
fn name_leaves_room_for_the_names_of_children() {
    check(cases::name);
}

#[test]
fn the_reserved_names_are_those_that_the_api_server_refuses() {
    let refused = cases::name().into_iter().filter(|case| case.refusal == Some("metadata.name must not be hedgerow,"));
    assert_eq!(refused.map(|case| case.name).collect::<Vec<_>>(), api::identity::RESERVED_NAMES);
}

#[test]
fn image_has_a_fixed_tag_or_a_digest() {
    check(cases::image);
}

#[test]
fn unknown_fields_and_wrong_types_are_refused() {
    check(cases::fields);
}

#[test]
fn ports_must_differ() {
    check(cases::ports);
}

#[test]
fn env_must_not_set_variables_of_the_operator() {
    check(cases::env);
}

#[test]
fn calls_are_unique_and_their_urls_not_set_by_hand() {
    check(cases::calls);
}

#[test]
fn resources_must_be_quantities() {
    check(cases::resources);
}

#[test]
fn database_name_is_valid_and_not_reserved() {
    check(cases::database);
}

#[test]
fn connection_limit_covers_a_rollout_at_full_scale() {
    check(cases::connections);
}

#[test]
fn database_name_and_server_are_immutable() {
    check(cases::permanence);
}

#[test]
fn scaling_min_must_not_exceed_max() {
    check(cases::scaling);
}

#[test]
fn route_paths_must_be_canonical() {
    check(cases::route);
}

#[test]
fn auth_rules_are_closed_and_below_the_route() {
    check(cases::auth);
    check(cases::unknown_auth);
}

/// Otherwise a rule that is not understood would be stored without what is not understood.
#[test]
fn the_api_server_keeps_unknown_parts_of_auth() {
    let definition = api::crd::document().expect("a definition");
    let spec = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties";
    for part in ["", "/properties/rules/items"] {
        let path = format!("{spec}/route/properties/auth{part}");
        let schema = definition.pointer(&path).unwrap_or_else(|| panic!("no schema {path}"));
        assert_eq!(schema["x-kubernetes-preserve-unknown-fields"], true, "{path}");
    }
}

#[test]
fn peer_is_a_name_or_labels() {
    check(cases::allow_from);
}
