//! Renames components and operations, so that each name has one meaning in the merged document.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use serde_json::Value;

use super::fragment::{Component, Fragment};
use crate::openapi::references::{Key, Reference, component, pointer, visit};

/// Renames components and operations whose name several fragments use with different meanings.
pub(super) fn resolve_conflicts(fragments: &mut [Fragment]) {
    fragments.iter_mut().for_each(drop_repeated_operation_ids);
    let components = component_renames(fragments);
    let operations = operation_renames(fragments);
    for (fragment, (components, operations)) in fragments.iter_mut().zip(components.iter().zip(&operations)) {
        if !components.is_empty() || !operations.is_empty() {
            rename(fragment, components, operations);
        }
    }
}

/// Applies new names to a fragment's components and operations, and to the references to them.
fn rename(fragment: &mut Fragment, components: &BTreeMap<Key, String>, operations: &HashMap<String, String>) {
    let mut rename = |reference: Reference<'_>| match reference {
        Reference::Pointer(text) => {
            if let Some((key, rest)) = component(text)
                && let Some(name) = components.get(&key)
            {
                *text = pointer(&(key.0, name.clone())) + rest;
            }
        }
        Reference::Scheme(scheme) => {
            if let Some(name) = components.get(&("securitySchemes".to_owned(), scheme.clone())) {
                name.clone_into(scheme);
            }
        }
        Reference::Operation(operation) => {
            if let Some(name) = operations.get(operation) {
                name.clone_into(operation);
            }
        }
    };
    fragment.paths.values_mut().for_each(|item| visit(item, &mut rename));
    fragment.components.values_mut().for_each(|component| visit(&mut component.value, &mut rename));
    let renamed = std::mem::take(&mut fragment.components).into_iter().map(|(key, component)| {
        let name = components.get(&key).cloned();
        ((key.0, name.unwrap_or(key.1)), component)
    });
    fragment.components = renamed.collect();
}

/// The new names of each fragment's components.
fn component_renames(fragments: &[Fragment]) -> Vec<BTreeMap<Key, String>> {
    let conflicts = conflicts(fragments);
    let mut numbers = HashMap::new();
    let mut taken: HashSet<Key> = fragments.iter().flat_map(|fragment| fragment.components.keys().cloned()).collect();
    let of_fragment = |fragment: &Fragment| {
        let conflicting = fragment.components.keys().filter(|key| conflicts.contains(*key));
        let renamed = conflicting.map(|(section, name)| {
            let take = |name: &String| taken.insert((section.clone(), name.clone()));
            ((section.clone(), name.clone()), qualified_name(&fragment.service, name, &mut numbers, take))
        });
        renamed.collect()
    };
    fragments.iter().map(of_fragment).collect()
}

/// The components that several fragments have and that differ between them, in their content or in the components that
/// they refer to.
fn conflicts(fragments: &[Fragment]) -> BTreeSet<Key> {
    let mut shared: BTreeMap<&Key, Vec<_>> = BTreeMap::new();
    for (key, component) in fragments.iter().flat_map(|fragment| &fragment.components) {
        shared.entry(key).or_default().push(component);
    }
    shared.retain(|_, components| components.len() > 1);
    let mut referrers: HashMap<&Key, Vec<&Key>> = HashMap::new();
    for (key, components) in &shared {
        for reference in components.iter().flat_map(|component| &component.references) {
            referrers.entry(reference).or_default().push(key);
        }
    }
    let differ = |components: &[&Component]| components.windows(2).any(|two| two[0].value != two[1].value);
    let mut pending: Vec<&Key> =
        shared.iter().filter(|(_, components)| differ(components)).map(|(key, _)| *key).collect();
    let mut conflicts = BTreeSet::new();
    while let Some(key) = pending.pop() {
        if conflicts.insert(key.clone()) {
            pending.extend(referrers.get(key).into_iter().flatten());
        }
    }
    conflicts
}

/// The new names of each fragment's operations. An operation id must be unique in the whole document, because
/// generators make functions of them.
fn operation_renames(fragments: &mut [Fragment]) -> Vec<HashMap<String, String>> {
    let ids: Vec<HashSet<String>> = fragments.iter_mut().map(operation_ids).collect();
    let mut numbers = HashMap::new();
    let mut taken: HashSet<String> = ids.iter().flatten().cloned().collect();
    let mut uses: HashMap<&str, usize> = HashMap::new();
    for id in ids.iter().flatten() {
        *uses.entry(id).or_default() += 1;
    }
    let of_fragment = |(fragment, ids): (&Fragment, &HashSet<String>)| {
        let mut conflicting: Vec<_> =
            ids.iter().filter(|id| uses.get(id.as_str()).is_some_and(|uses| *uses > 1)).collect();
        conflicting.sort();
        let renamed = conflicting.into_iter().map(|id| {
            let take = |id: &String| taken.insert(id.clone());
            (id.clone(), qualified_name(&fragment.service, id, &mut numbers, take))
        });
        renamed.collect()
    };
    fragments.iter().zip(&ids).map(of_fragment).collect()
}

/// The operation ids of a fragment, including those within callbacks and those that links refer to.
fn operation_ids(fragment: &mut Fragment) -> HashSet<String> {
    let mut ids = HashSet::new();
    let components = fragment.components.values_mut().map(|component| &mut component.value);
    for value in fragment.paths.values_mut().chain(components) {
        visit(value, &mut |reference| {
            if let Reference::Operation(id) = reference {
                ids.insert(id.clone());
            }
        });
    }
    ids
}

/// A document that repeats an operation id is invalid. The first operation keeps the id; the others lose it.
fn drop_repeated_operation_ids(fragment: &mut Fragment) {
    let mut seen = HashSet::new();
    for operation in fragment.operations() {
        if let Some(Value::String(id)) = operation.get("operationId")
            && !seen.insert(id.clone())
        {
            operation.remove("operationId");
        }
    }
}

/// Prefixes a name with its service's, and replaces characters that are not allowed in names of components. If the name
/// is taken, a number is appended. `numbers` has the next one for each name, so that many names which become the same do
/// not all try the same numbers. `take` reserves a name, or returns false if it is taken.
fn qualified_name(
    service: &str,
    name: &str,
    numbers: &mut HashMap<String, usize>,
    mut take: impl FnMut(&String) -> bool,
) -> String {
    let qualified: String = format!("{service}.{name}")
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_') { c } else { '_' })
        .collect();
    if take(&qualified) {
        return qualified;
    }
    let number = numbers.entry(qualified.clone()).or_insert(2);
    loop {
        let numbered = format!("{qualified}.{number}");
        *number += 1;
        if take(&numbered) {
            return numbered;
        }
    }
}
