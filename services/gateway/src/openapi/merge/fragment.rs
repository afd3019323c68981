//! The fragment that one service contributes to the merged document.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use http::Uri;
use serde_json::{Map, Value, json};

use crate::{
    discovery::Service,
    openapi::{
        budget::{Budget, memory_of},
        fetch::DocumentError,
        paths::owner,
        references::{Key, Reference, component, decode, visit},
        upgrade::upgrade,
    },
};

/// The members of a path item that are operations.
const METHODS: [&str; 8] = ["delete", "get", "head", "options", "patch", "post", "put", "trace"];

/// What the merged document takes from a service's document.
pub(super) struct Fragment {
    pub(super) service: String,
    pub(super) tags: Vec<Value>,
    pub(super) paths: Map<String, Value>,
    /// The components that the paths refer to, directly or indirectly, and no others.
    pub(super) components: BTreeMap<Key, Component>,
}

pub(super) struct Component {
    pub(super) value: Value,
    /// The components that this one refers to.
    pub(super) references: BTreeSet<Key>,
}

impl Fragment {
    /// Reduces a document to the paths that are routed to its service.
    pub(super) fn new(
        services: &[Service],
        service: &Service,
        mut document: Value,
        budget: &mut Budget,
    ) -> Result<Self, DocumentError> {
        let version = document["openapi"].as_str().unwrap_or_default();
        if version.starts_with("3.0.") {
            upgrade(&mut document);
        } else if !version.starts_with("3.1.") {
            return Err(DocumentError::NotOpenApi);
        }
        let base = base_path(&document);
        let security = document["security"].take();
        let security_size = memory_of(security.to_string().as_bytes());
        let Value::Object(paths) = document["paths"].take() else { return Err(DocumentError::NotOpenApi) };
        let mut fragment =
            Self { service: service.name.clone(), tags: Vec::new(), paths: Map::new(), components: BTreeMap::new() };
        for (path, mut item) in paths {
            budget.take(2 * base.len())?;
            let path = format!("{base}{path}");
            if owner(services, &path) == Some(service.name.as_str()) {
                make_self_contained(&mut item, &security, security_size, budget)?;
                fragment.paths.insert(path, item);
            }
        }
        if fragment.paths.is_empty() {
            return Err(DocumentError::NothingRouted);
        }
        fragment.take_components(&document)?;
        fragment.take_tags(&document);
        Ok(fragment)
    }

    /// The operations of all paths.
    pub(super) fn operations(&mut self) -> impl Iterator<Item = &mut Map<String, Value>> {
        self.paths.values_mut().flat_map(operations)
    }

    /// Copies the components that the paths refer to, the components that those refer to, and so on.
    fn take_components(&mut self, document: &Value) -> Result<(), DocumentError> {
        let mut needed = BTreeSet::new();
        for item in self.paths.values_mut() {
            needed.extend(references(item, document)?);
        }
        while let Some(key) = needed.pop_first() {
            if self.components.contains_key(&key) {
                continue;
            }
            let mut value = document["components"][&key.0].get(&key.1).ok_or(DocumentError::Dangling)?.clone();
            let references = references(&mut value, document)?;
            needed.extend(references.iter().cloned());
            self.components.insert(key, Component { value, references });
        }
        Ok(())
    }

    /// Tags operations with the name of their service. If they have tags, the name becomes a prefix of these.
    fn take_tags(&mut self, document: &Value) {
        let service = self.service.clone();
        let qualify = |tag: &str| {
            if tag.eq_ignore_ascii_case(&service) { service.clone() } else { format!("{service}: {tag}") }
        };
        let mut used = BTreeSet::new();
        for operation in self.operations() {
            let tags = operation.get("tags").and_then(Value::as_array).into_iter().flatten();
            let mut tags: Vec<String> = tags.filter_map(Value::as_str).map(qualify).collect();
            if tags.is_empty() {
                tags.push(service.clone());
            }
            used.extend(tags.iter().cloned());
            operation.insert("tags".to_owned(), tags.into());
        }
        let described = document["tags"].as_array().into_iter().flatten();
        let described =
            described.filter_map(|tag| Some((qualify(tag["name"].as_str()?), tag["description"].as_str()?)));
        let of_document = document["info"]["description"].as_str().map(|text| (service.clone(), text));
        let mut descriptions = HashMap::new();
        for (tag, text) in described.chain(of_document) {
            descriptions.entry(tag).or_insert(text);
        }
        for name in used {
            let mut tag = json!({"name": name});
            if let Some(text) = descriptions.get(&name) {
                tag["description"] = (*text).into();
            }
            self.tags.push(tag);
        }
    }
}

fn operations(item: &mut Value) -> impl Iterator<Item = &mut Map<String, Value>> {
    let members = item.as_object_mut().into_iter().flatten();
    let operations = members.filter(|(name, _)| METHODS.contains(&name.as_str()));
    operations.filter_map(|(_, operation)| operation.as_object_mut())
}

/// The path of the first server URL. The host does not matter, because clients use the gateway's.
fn base_path(document: &Value) -> String {
    let url = document["servers"][0]["url"].as_str().unwrap_or_default();
    let path = url.parse::<Uri>().map(|url| url.path().trim_end_matches('/').to_owned());
    path.unwrap_or_default()
}

/// Prepares a path item for another document: its operations get the document's security requirements, and server URLs
/// are removed.
fn make_self_contained(
    item: &mut Value,
    security: &Value,
    size: usize,
    budget: &mut Budget,
) -> Result<(), DocumentError> {
    item.as_object_mut().ok_or(DocumentError::NotOpenApi)?.remove("servers");
    for operation in operations(item) {
        operation.remove("servers");
        if security.is_array() && !operation.contains_key("security") {
            budget.take(size)?;
            operation.insert("security".to_owned(), security.clone());
        }
    }
    Ok(())
}

/// The components that a value refers to. Fails if a reference would not resolve in the merged document.
fn references(value: &mut Value, document: &Value) -> Result<BTreeSet<Key>, DocumentError> {
    let mut keys = BTreeSet::new();
    let mut all_resolve = true;
    visit(value, &mut |reference| match reference {
        Reference::Pointer(pointer) => match component(pointer) {
            Some(((section, name), rest)) => {
                let target = document["components"][&section].get(&name);
                let target = target.and_then(|target| target.pointer(&decode(rest)?));
                all_resolve &= target.is_some();
                keys.insert((section, name));
            }
            // Relative URLs would be relative to the gateway, which has no such files. Absolute ones would have those
            // who read the document fetch what a service chooses, from inside their network.
            None => all_resolve = false,
        },
        Reference::Scheme(scheme) => {
            keys.insert(("securitySchemes".to_owned(), scheme.clone()));
        }
        Reference::Operation(_) => {}
    });
    if all_resolve { Ok(keys) } else { Err(DocumentError::Dangling) }
}
