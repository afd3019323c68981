//! Renames components and operations, so that each name has one meaning in the merged document.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::fragment::{Component, Fragment};
use crate::openapi::references::{Key, Reference, component, pointer, visit};

/// Renames components and operations whose name several fragments use with different meanings.
pub(super) fn resolve_conflicts(fragments: &mut [Fragment]) {
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
    let components_text = fragment.components.values_mut().map(|component| &mut component.text);
    for text in fragment.paths.values_mut().chain(components_text) {
        // It was written by the gateway, so it is valid.
        if let Ok(mut value) = serde_json::from_str(text) {
            visit(&mut value, &mut rename);
            *text = value.to_string();
        }
    }
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
    let differ = |components: &[&Component]| components.windows(2).any(|two| two[0].text != two[1].text);
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
fn operation_renames(fragments: &[Fragment]) -> Vec<HashMap<String, String>> {
    let ids = || fragments.iter().flat_map(|fragment| &fragment.operation_ids);
    let mut numbers = HashMap::new();
    let mut taken: HashSet<String> = ids().cloned().collect();
    let mut uses: HashMap<&str, usize> = HashMap::new();
    for id in ids() {
        *uses.entry(id).or_default() += 1;
    }
    let of_fragment = |fragment: &Fragment| {
        let ids = fragment.operation_ids.iter();
        let mut conflicting: Vec<_> = ids.filter(|id| uses.get(id.as_str()).is_some_and(|uses| *uses > 1)).collect();
        conflicting.sort();
        let renamed = conflicting.into_iter().map(|id| {
            let take = |id: &String| taken.insert(id.clone());
            (id.clone(), qualified_name(&fragment.service, id, &mut numbers, take))
        });
        renamed.collect()
    };
    fragments.iter().map(of_fragment).collect()
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
