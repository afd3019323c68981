//! Makes one document of those of all services.

mod names;
mod part;

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use self::part::Part;
use super::fetch::Absence;
use crate::services::Service;

/// Merges the documents of services, which come in the same order. Each is cut to what is routed to its service; where
/// two have different components, or operations, of one name, these get the names of their services before their own.
pub(super) fn merge(services: &[Service], documents: impl IntoIterator<Item = Result<Value, Absence>>) -> Value {
    let mut parts = Vec::new();
    let mut absent = Vec::new();
    for (service, document) in services.iter().zip(documents) {
        match document.and_then(|document| Part::new(services, service, document)) {
            Ok(part) => parts.push(part),
            Err(absence) => absent.push((service.name.as_str(), absence.reason())),
        }
    }
    names::settle(&mut parts);

    let mut document = json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Hedgerow",
            "version": env!("CARGO_PKG_VERSION"),
            "description": description(&parts, &absent),
        },
        // Wherever the document itself was had from.
        "servers": [{"url": "/"}],
        "x-hedgerow-unavailable":
            absent.iter().map(|(service, reason)| json!({"service": service, "reason": reason})).collect::<Vec<_>>(),
    });
    let mut components = Map::new();
    let (mut tags, mut paths) = (Vec::new(), Map::new());
    for part in parts {
        tags.extend(part.tags);
        paths.extend(part.paths);
        for ((section, name), component) in part.components {
            let section = components.entry(section).or_insert_with(|| Map::new().into());
            if let Value::Object(section) = section {
                section.insert(name, component.value);
            }
        }
    }
    document["tags"] = tags.into();
    document["paths"] = paths.into();
    document["components"] = components.into();
    document
}

/// What a reader of the page sees first, in Markdown.
fn description(parts: &[Part], absent: &[(&str, &str)]) -> String {
    let mut text = String::from("The APIs of all services behind this gateway.");
    if parts.is_empty() && absent.is_empty() {
        text.push_str(" There is none yet.");
    }
    if !absent.is_empty() {
        text.push_str("\n\nNot shown:\n");
        for (service, reason) in absent {
            let _ = write!(text, "\n- **{service}**: {reason}");
        }
    }
    text
}

#[cfg(test)]
mod tests;
