//! Merges the documents of all services into one.

mod fragment;
mod rename;

use std::fmt::Write as _;

use bytes::Bytes;
use serde_json::{Map, Value, json};

use self::fragment::Fragment;
use super::{budget::Budget, fetch::DocumentError};
use crate::discovery::Service;

/// Merges the documents of services, which must be in the same order as the services.
///
/// Documents are parsed one at a time, so that only what is merged of each stays in memory. Each is reduced to the
/// paths that are routed to its service. If services use a name for different components or operations, those are
/// prefixed with the name of their service.
pub(super) fn merge(services: &[Service], documents: impl IntoIterator<Item = Result<Bytes, DocumentError>>) -> Value {
    let mut budget = Budget::default();
    let mut fragments = Vec::new();
    let mut unavailable = Vec::new();
    for (service, document) in services.iter().zip(documents) {
        let build = |text: Bytes| {
            budget.spend(|budget| {
                let document = budget.parse(&text)?;
                Fragment::new(services, service, document, budget)
            })
        };
        let fragment = document.and_then(build);
        match fragment {
            Ok(fragment) => fragments.push(fragment),
            Err(error) => {
                if error == DocumentError::TooMuchMemory {
                    tracing::warn!(service = service.name, "API document left out: {error}");
                }
                unavailable.push((service.name.as_str(), error));
            }
        }
    }
    rename::resolve_conflicts(&mut fragments);

    let mut document = json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Hedgerow",
            "version": env!("CARGO_PKG_VERSION"),
            "description": description(&fragments, &unavailable),
        },
        // Relative to the host that served the document.
        "servers": [{"url": "/"}],
        "x-hedgerow-unavailable": unavailable
            .iter()
            .map(|(service, error)| json!({"service": service, "reason": error.to_string()}))
            .collect::<Vec<_>>(),
    });
    let mut components = Map::new();
    let (mut tags, mut paths) = (Vec::new(), Map::new());
    for fragment in fragments {
        tags.extend(fragment.tags);
        paths.extend(fragment.paths);
        for ((section, name), component) in fragment.components {
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

/// The introduction of the page, in Markdown.
fn description(fragments: &[Fragment], unavailable: &[(&str, DocumentError)]) -> String {
    let mut text = String::from("The APIs of all services behind this gateway.");
    if fragments.is_empty() && unavailable.is_empty() {
        text.push_str(" No service has a route yet.");
    }
    if !unavailable.is_empty() {
        text.push_str("\n\nNot shown:\n");
        for (service, error) in unavailable {
            let _ = write!(text, "\n- **{service}**: {error}");
        }
    }
    text
}

#[cfg(test)]
mod tests;
