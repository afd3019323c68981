//! The fragment that one service contributes to the merged document.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use api::AuthMode;
use http::Uri;
use serde_json::{Map, Value, json};

use super::security::Security;
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

/// What the merged document takes from a service's document. It is text, which takes little memory: a fragment is kept
/// until all documents have been read.
pub(super) struct Fragment {
    pub(super) service: String,
    pub(super) tags: Vec<String>,
    /// The path items, by their paths.
    pub(super) paths: BTreeMap<String, String>,
    /// The components that the paths refer to, directly or indirectly, and no others.
    pub(super) components: BTreeMap<Key, Component>,
    /// The operation ids, including those within callbacks and those that links refer to.
    pub(super) operation_ids: BTreeSet<String>,
}

pub(super) struct Component {
    pub(super) text: String,
    /// The components that this one refers to.
    pub(super) references: BTreeSet<Key>,
}

impl Fragment {
    /// Reduces a document to the paths that are routed to its service.
    pub(super) fn new(
        services: &[Service],
        service: &Service,
        mut document: Value,
        default_mode: AuthMode,
        budget: &mut Budget,
    ) -> Result<Self, DocumentError> {
        let version = document["openapi"].as_str().unwrap_or_default();
        if version.starts_with("3.0.") {
            upgrade(&mut document);
        } else if !version.starts_with("3.1.") {
            return Err(DocumentError::NotOpenApi);
        }
        let base = base_path(&document);
        let required = Security::new(&service.access, default_mode, &mut document);
        let security = document["security"].take();
        // The operations of a path item get a copy each.
        budget.check(METHODS.len() * memory_of(security.to_string().as_bytes()))?;
        let Value::Object(paths) = document["paths"].take() else { return Err(DocumentError::NotOpenApi) };
        let mut fragment = Self {
            service: service.name.clone(),
            tags: Vec::new(),
            paths: BTreeMap::new(),
            components: BTreeMap::new(),
            operation_ids: BTreeSet::new(),
        };
        let (mut needed, mut tags, mut seen) = (BTreeSet::new(), BTreeSet::new(), HashSet::new());
        for (path, mut item) in paths {
            let path = format!("{base}{path}");
            if owner(services, &path) != Some(service.name.as_str()) {
                continue;
            }
            make_self_contained(&mut item, &security)?;
            required.apply(&path, &mut item);
            drop_repeated_operation_ids(&mut item, &mut seen);
            needed.extend(fragment.resolve(References::of(&mut item), &document, budget)?);
            fragment.tag_operations(&mut item, &mut tags);
            let item = item.to_string();
            budget.take(path.len() + item.len())?;
            fragment.paths.insert(path, item);
        }
        if fragment.paths.is_empty() {
            return Err(DocumentError::NothingRouted);
        }
        fragment.take_components(needed, &mut document, budget)?;
        fragment.describe_tags(tags, &document, budget)?;
        Ok(fragment)
    }

    /// Copies the components that the paths need, the components that those refer to, and so on.
    fn take_components(
        &mut self,
        mut needed: BTreeSet<Key>,
        document: &mut Value,
        budget: &mut Budget,
    ) -> Result<(), DocumentError> {
        while let Some(key) = needed.pop_first() {
            if self.components.contains_key(&key) {
                continue;
            }
            let place = document["components"][&key.0].get_mut(&key.1).ok_or(DocumentError::Dangling)?;
            let references = References::of(place);
            let text = place.to_string();
            let references = self.resolve(references, document, budget)?;
            budget.take(key.0.len() + key.1.len() + text.len())?;
            needed.extend(references.iter().cloned());
            self.components.insert(key, Component { text, references });
        }
        Ok(())
    }

    /// Returns the components that are referred to. Fails if a reference would not resolve in the merged document.
    fn resolve(
        &mut self,
        references: References,
        document: &Value,
        budget: &mut Budget,
    ) -> Result<BTreeSet<Key>, DocumentError> {
        // Each may be prefixed with the name of the service.
        budget.take(references.count * (self.service.len() + 1))?;
        let mut keys = BTreeSet::new();
        for (key, rest) in references.components.ok_or(DocumentError::Dangling)? {
            let target = document["components"][&key.0].get(&key.1);
            let target = target.and_then(|target| target.pointer(&decode(&rest)?));
            target.ok_or(DocumentError::Dangling)?;
            if !keys.contains(&key) {
                budget.take(key.0.len() + key.1.len())?;
                keys.insert(key);
            }
        }
        for id in references.operation_ids {
            if !self.operation_ids.contains(&id) {
                budget.take(id.len())?;
                self.operation_ids.insert(id);
            }
        }
        Ok(keys)
    }

    /// Tags operations with the name of their service. If they have tags, the name becomes a prefix of these.
    fn tag_operations(&self, item: &mut Value, used: &mut BTreeSet<String>) {
        for (_, operation) in operations(item) {
            let tags = operation.get("tags").and_then(Value::as_array).into_iter().flatten();
            let mut tags: Vec<String> = tags.filter_map(Value::as_str).map(|tag| self.qualify(tag)).collect();
            if tags.is_empty() {
                tags.push(self.service.clone());
            }
            used.extend(tags.iter().cloned());
            operation.insert("tags".to_owned(), tags.into());
        }
    }

    fn qualify(&self, tag: &str) -> String {
        let service = &self.service;
        if tag.eq_ignore_ascii_case(service) { service.clone() } else { format!("{service}: {tag}") }
    }

    /// Lists the tags that operations have, with the descriptions from the document.
    fn describe_tags(
        &mut self,
        used: BTreeSet<String>,
        document: &Value,
        budget: &mut Budget,
    ) -> Result<(), DocumentError> {
        let described = document["tags"].as_array().into_iter().flatten();
        let described =
            described.filter_map(|tag| Some((self.qualify(tag["name"].as_str()?), tag["description"].as_str()?)));
        let of_document = document["info"]["description"].as_str().map(|text| (self.service.clone(), text));
        let mut descriptions = HashMap::new();
        for (tag, text) in described.chain(of_document) {
            descriptions.entry(tag).or_insert(text);
        }
        for name in used {
            let mut tag = json!({"name": name});
            if let Some(text) = descriptions.get(&name) {
                tag["description"] = (*text).into();
            }
            let tag = tag.to_string();
            budget.take(tag.len())?;
            self.tags.push(tag);
        }
        Ok(())
    }
}

/// The operations of a path item, by their methods.
pub(super) fn operations(item: &mut Value) -> impl Iterator<Item = (&String, &mut Map<String, Value>)> {
    let members = item.as_object_mut().into_iter().flatten();
    let operations = members.filter(|(name, _)| METHODS.contains(&name.as_str()));
    operations.filter_map(|(name, operation)| Some((name, operation.as_object_mut()?)))
}

/// The path of the first server URL. The host does not matter, because clients use the gateway's.
fn base_path(document: &Value) -> String {
    let url = document["servers"][0]["url"].as_str().unwrap_or_default();
    let path = url.parse::<Uri>().map(|url| url.path().trim_end_matches('/').to_owned());
    path.unwrap_or_default()
}

/// Prepares a path item for another document: its operations get the document's security requirements, and server URLs
/// are removed.
fn make_self_contained(item: &mut Value, security: &Value) -> Result<(), DocumentError> {
    item.as_object_mut().ok_or(DocumentError::NotOpenApi)?.remove("servers");
    for (_, operation) in operations(item) {
        operation.remove("servers");
        if security.is_array() && !operation.contains_key("security") {
            operation.insert("security".to_owned(), security.clone());
        }
    }
    Ok(())
}

/// A document that repeats an operation id is invalid. The first operation keeps the id; the others lose it.
fn drop_repeated_operation_ids(item: &mut Value, seen: &mut HashSet<String>) {
    for (_, operation) in operations(item) {
        if let Some(Value::String(id)) = operation.get("operationId")
            && !seen.insert(id.clone())
        {
            operation.remove("operationId");
        }
    }
}

/// The references within a value.
struct References {
    /// The components, each with a pointer into it. `None` if there are other references: relative URLs would be
    /// relative to the gateway, which has no such files, and absolute ones would have those who read the document fetch
    /// what a service chooses, from inside their network.
    components: Option<BTreeSet<(Key, String)>>,
    operation_ids: BTreeSet<String>,
    /// How many there are.
    count: usize,
}

impl References {
    fn of(value: &mut Value) -> Self {
        let (mut components, mut operation_ids, mut count) = (Some(BTreeSet::new()), BTreeSet::new(), 0);
        visit(value, &mut |reference| {
            count += 1;
            let found = match reference {
                Reference::Pointer(pointer) => component(pointer).map(|(key, rest)| (key, rest.to_owned())),
                Reference::Scheme(scheme) => Some((("securitySchemes".to_owned(), scheme.clone()), String::new())),
                Reference::Operation(id) => {
                    operation_ids.insert(id.clone());
                    return;
                }
            };
            match (&mut components, found) {
                (Some(components), Some(found)) => _ = components.insert(found),
                (components, _) => *components = None,
            }
        });
        Self { components, operation_ids, count }
    }
}
