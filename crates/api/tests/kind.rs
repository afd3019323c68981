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
}

#[test]
fn peer_is_a_name_or_labels() {
    check(cases::allow_from);
}
