//! The rules of the kind, without a cluster: one test a rule, what it accepts and what it refuses.

use api::admit;
use test_support::kind::{self as cases, Case};

/// Whether each case of a table is accepted, or refused for the reason it says.
fn hold(table: fn() -> Vec<Case>) {
    for case in table() {
        let (old, object) = case.objects();
        let answer = admit(&object, old.as_ref()).map(drop).map_err(|refused| refused.to_string());
        match (case.refusal, answer) {
            (None, Ok(())) => {}
            (Some(expected), Err(refusal)) => assert!(refusal.contains(expected), "{object}: {refusal}"),
            (_, answer) => panic!("{object}: {answer:?}"),
        }
    }
}

#[test]
fn a_name_leaves_room_for_those_of_the_children() {
    hold(cases::name);
}

#[test]
fn an_image_is_pinned() {
    hold(cases::image);
}

#[test]
fn a_field_is_known_and_of_its_type() {
    hold(cases::fields);
}

#[test]
fn ports_differ() {
    hold(cases::ports);
}

#[test]
fn the_environment_leaves_the_operators_variables_alone() {
    hold(cases::env);
}

#[test]
fn callees_are_named_once_and_their_urls_are_the_operators() {
    hold(cases::calls);
}

#[test]
fn resources_are_quantities() {
    hold(cases::resources);
}

#[test]
fn a_database_has_a_name_that_is_free_to_take() {
    hold(cases::database);
}

#[test]
fn the_connections_do_for_a_rollout_at_full_scale() {
    hold(cases::connections);
}

#[test]
fn a_database_stays_what_and_where_it_is() {
    hold(cases::permanence);
}

#[test]
fn scaling_has_room_between_its_ends() {
    hold(cases::scaling);
}

#[test]
fn a_route_has_canonical_paths() {
    hold(cases::route);
}

#[test]
fn a_peer_is_a_name_or_labels() {
    hold(cases::allow_from);
}
