//! The part of the document that one service brings.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use http::Uri;
use serde_json::{Map, Value, json};

use crate::{
    documents::{
        fetch::Absence,
        is_under,
        references::{Key, Reference, component, visit},
        upgrade::upgrade,
    },
    services::Service,
};

/// The members of a path that are operations.
pub(super) const METHODS: [&str; 8] = ["delete", "get", "head", "options", "patch", "post", "put", "trace"];

/// What is left of a service's document.
pub(super) struct Part {
    pub(super) service: String,
    pub(super) tags: Vec<Value>,
    pub(super) paths: Map<String, Value>,
    /// All that the paths refer to, and nothing else.
    pub(super) components: BTreeMap<Key, Component>,
}

pub(super) struct Component {
    pub(super) value: Value,
    /// What it refers to itself.
    pub(super) references: BTreeSet<Key>,
}

impl Part {
    /// Cuts a document to what is routed to its service.
    pub(super) fn new(services: &[Service], service: &Service, mut document: Value) -> Result<Self, Absence> {
        let version = document["openapi"].as_str().unwrap_or_default();
        if version.starts_with("3.0.") {
            upgrade(&mut document);
        } else if !version.starts_with("3.1.") {
            return Err(Absence::NotOpenApi);
        }
        let base = base(&document);
        let security = document["security"].take();
        let Value::Object(paths) = document["paths"].take() else { return Err(Absence::NotOpenApi) };
        let mut part =
            Self { service: service.name.clone(), tags: Vec::new(), paths: Map::new(), components: BTreeMap::new() };
        for (path, mut item) in paths {
            let path = format!("{base}{path}");
            if owner(services, &path) == Some(service.name.as_str()) {
                adapt(&mut item, &security).ok_or(Absence::NotOpenApi)?;
                part.paths.insert(path, item);
            }
        }
        if part.paths.is_empty() {
            return Err(Absence::NothingRouted);
        }
        part.take_components(&document)?;
        part.take_tags(&document);
        Ok(part)
    }

    /// The operations of all paths.
    pub(super) fn operations(&mut self) -> impl Iterator<Item = &mut Map<String, Value>> {
        self.paths.values_mut().flat_map(operations)
    }

    /// Takes from the document what the paths refer to, what that refers to, and so on.
    fn take_components(&mut self, document: &Value) -> Result<(), Absence> {
        let mut wanted = BTreeSet::new();
        for item in self.paths.values_mut() {
            wanted.extend(references(item, document)?);
        }
        while let Some(key) = wanted.pop_first() {
            if self.components.contains_key(&key) {
                continue;
            }
            let mut value = document["components"][&key.0].get(&key.1).ok_or(Absence::Dangling)?.clone();
            let references = references(&mut value, document)?;
            wanted.extend(references.iter().cloned());
            self.components.insert(key, Component { value, references });
        }
        Ok(())
    }

    /// Puts the operations under the service's name: as their tag, or before it.
    fn take_tags(&mut self, document: &Value) {
        let service = self.service.clone();
        let name = |tag: &str| {
            if tag.eq_ignore_ascii_case(&service) { service.clone() } else { format!("{service}: {tag}") }
        };
        let mut used = BTreeSet::new();
        for operation in self.operations() {
            let tags = operation.get("tags").and_then(Value::as_array).into_iter().flatten();
            let mut tags: Vec<String> = tags.filter_map(Value::as_str).map(name).collect();
            if tags.is_empty() {
                tags.push(service.clone());
            }
            used.extend(tags.iter().cloned());
            operation.insert("tags".to_owned(), tags.into());
        }
        let own = document["tags"].as_array().into_iter().flatten();
        let own = own.filter_map(|tag| Some((name(tag["name"].as_str()?), tag["description"].as_str()?)));
        let whole = document["info"]["description"].as_str().map(|text| (service.clone(), text));
        let mut descriptions = HashMap::new();
        for (tag, text) in own.chain(whole) {
            descriptions.entry(tag).or_insert(text);
        }
        for tag in used {
            let mut described = json!({"name": tag});
            if let Some(text) = descriptions.get(&tag) {
                described["description"] = (*text).into();
            }
            self.tags.push(described);
        }
    }
}

fn operations(item: &mut Value) -> impl Iterator<Item = &mut Map<String, Value>> {
    let members = item.as_object_mut().into_iter().flatten();
    let operations = members.filter(|(name, _)| METHODS.contains(&name.as_str()));
    operations.filter_map(|(_, operation)| operation.as_object_mut())
}

/// The path at which a service has its paths, where its document says so. Whatever host it says has nothing to do with
/// where it is reached here.
fn base(document: &Value) -> String {
    let url = document["servers"][0]["url"].as_str().unwrap_or_default();
    let path = url.parse::<Uri>().map(|url| url.path().trim_end_matches('/').to_owned());
    path.unwrap_or_default()
}

/// The service that a path is routed to: the one with the longest prefix.
fn owner<'a>(services: &'a [Service], path: &str) -> Option<&'a str> {
    let prefixes = services.iter().flat_map(|service| service.paths.iter().map(move |prefix| (prefix, service)));
    let routed = prefixes.filter(|(prefix, _)| is_under(prefix, path));
    routed.max_by_key(|(prefix, _)| prefix.len()).map(|(_, service)| service.name.as_str())
}

/// Makes a path of a document one of another document: with what was said for the whole of it, and without where it was.
fn adapt(item: &mut Value, security: &Value) -> Option<()> {
    item.as_object_mut()?.remove("servers");
    for operation in operations(item) {
        operation.remove("servers");
        if security.is_array() {
            operation.entry("security").or_insert_with(|| security.clone());
        }
    }
    Some(())
}

/// The components that a part refers to; all of its references must lead somewhere in another document, too.
fn references(part: &mut Value, document: &Value) -> Result<BTreeSet<Key>, Absence> {
    let mut found = BTreeSet::new();
    let mut is_whole = true;
    visit(part, &mut |reference| match reference {
        Reference::Pointer(pointer) => match component(pointer) {
            Some(((section, name), rest)) => {
                let target = document["components"][&section].get(&name);
                is_whole &= target.is_some_and(|target| target.pointer(rest).is_some());
                found.insert((section, name));
            }
            // Another document, somewhere else; nothing beside this one is there.
            None => is_whole &= pointer.contains("://"),
        },
        Reference::Scheme(scheme) => {
            found.insert(("securitySchemes".to_owned(), scheme.clone()));
        }
        Reference::Operation(_) => {}
    });
    if is_whole { Ok(found) } else { Err(Absence::Dangling) }
}
