//! Settles the names of components and operations, so that each means one thing in the merged document.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use serde_json::Value;

use super::part::{Component, Part};
use crate::documents::references::{Key, Reference, component, pointer, visit};

/// Gives new names where several parts use one for different things.
pub(super) fn settle(parts: &mut [Part]) {
    parts.iter_mut().for_each(drop_repeated_operations);
    let components = components(parts);
    let operations = operations(parts);
    for (part, (components, operations)) in parts.iter_mut().zip(components.iter().zip(&operations)) {
        if components.is_empty() && operations.is_empty() {
            continue;
        }
        let mut see = |reference: Reference<'_>| match reference {
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
        part.paths.values_mut().for_each(|item| visit(item, &mut see));
        part.components.values_mut().for_each(|component| visit(&mut component.value, &mut see));
        let renamed = std::mem::take(&mut part.components).into_iter().map(|(key, component)| {
            let name = components.get(&key).cloned();
            ((key.0, name.unwrap_or(key.1)), component)
        });
        part.components = renamed.collect();
    }
}

/// The new names of each part's components.
fn components(parts: &[Part]) -> Vec<BTreeMap<Key, String>> {
    let conflicts = conflicts(parts);
    let mut taken: HashSet<Key> = parts.iter().flat_map(|part| part.components.keys().cloned()).collect();
    let of_part = |part: &Part| {
        let own = part.components.keys().filter(|key| conflicts.contains(*key));
        let renamed = own.map(|(section, name)| {
            let is_free = |name: &String| taken.insert((section.clone(), name.clone()));
            ((section.clone(), name.clone()), name_anew(&part.service, name, is_free))
        });
        renamed.collect()
    };
    parts.iter().map(of_part).collect()
}

/// The components that several parts have and that are not the same in all of them: in what they say, or in what they
/// refer to.
fn conflicts(parts: &[Part]) -> BTreeSet<Key> {
    let mut shared: BTreeMap<&Key, Vec<_>> = BTreeMap::new();
    for (key, component) in parts.iter().flat_map(|part| &part.components) {
        shared.entry(key).or_default().push(component);
    }
    shared.retain(|_, components| components.len() > 1);
    let mut users: HashMap<&Key, Vec<&Key>> = HashMap::new();
    for (key, components) in &shared {
        for reference in components.iter().flat_map(|component| &component.references) {
            users.entry(reference).or_default().push(key);
        }
    }
    let differ = |components: &[&Component]| components.windows(2).any(|two| two[0].value != two[1].value);
    let mut found: Vec<&Key> =
        shared.iter().filter(|(_, components)| differ(components)).map(|(key, _)| *key).collect();
    let mut conflicts = BTreeSet::new();
    while let Some(key) = found.pop() {
        if conflicts.insert(key.clone()) {
            found.extend(users.get(key).into_iter().flatten());
        }
    }
    conflicts
}

/// The new names of each part's operations. They have a name in the whole document, so that clients' generators can make
/// functions of them.
fn operations(parts: &mut [Part]) -> Vec<HashMap<String, String>> {
    let names: Vec<HashSet<String>> = parts.iter_mut().map(operation_names).collect();
    let mut taken: HashSet<String> = names.iter().flatten().cloned().collect();
    let mut users: HashMap<&str, usize> = HashMap::new();
    for name in names.iter().flatten() {
        *users.entry(name).or_default() += 1;
    }
    let of_part = |(part, names): (&Part, &HashSet<String>)| {
        let mut own: Vec<_> =
            names.iter().filter(|name| users.get(name.as_str()).is_some_and(|users| *users > 1)).collect();
        own.sort();
        let renamed = own
            .into_iter()
            .map(|name| (name.clone(), name_anew(&part.service, name, |name| taken.insert(name.clone()))));
        renamed.collect()
    };
    parts.iter().zip(&names).map(of_part).collect()
}

/// The names of a part's operations, those within callbacks and those that links use included.
fn operation_names(part: &mut Part) -> HashSet<String> {
    let mut names = HashSet::new();
    let components = part.components.values_mut().map(|component| &mut component.value);
    for value in part.paths.values_mut().chain(components) {
        visit(value, &mut |reference| {
            if let Reference::Operation(name) = reference {
                names.insert(name.clone());
            }
        });
    }
    names
}

/// A document that uses one name for two of its own operations is wrong by itself; the second goes without.
fn drop_repeated_operations(part: &mut Part) {
    let mut seen = HashSet::new();
    for operation in part.operations() {
        if let Some(Value::String(name)) = operation.get("operationId")
            && !seen.insert(name.clone())
        {
            operation.remove("operationId");
        }
    }
}

/// A name with its service's before it, in the characters that names of components may have.
fn name_anew(service: &str, name: &str, mut is_free: impl FnMut(&String) -> bool) -> String {
    let mut new: String = format!("{service}.{name}")
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_') { c } else { '_' })
        .collect();
    while !is_free(&new) {
        new.push('_');
    }
    new
}
