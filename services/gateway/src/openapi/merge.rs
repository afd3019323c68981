//! Merges the documents of all services into one.

mod fragment;
mod rename;
mod security;

use std::{collections::BTreeMap, fmt::Write as _};

use api::AuthMode;
use bytes::Bytes;
use serde_json::{Value, json};

use self::fragment::Fragment;
use super::{
    budget::{self, Budget},
    fetch::DocumentError,
};
use crate::discovery::Service;

/// Merges the documents of services, which must be in the same order as the services, and returns the text.
///
/// Documents are parsed one at a time. Each is reduced to the paths that are routed to its service, and only the text
/// of these and of what they refer to is kept. If services use a name for different components or operations, those are
/// prefixed with the name of their service. `default_mode` is what routes require that do not say.
pub(super) fn merge(
    services: &[Service],
    documents: impl IntoIterator<Item = Result<Bytes, DocumentError>>,
    default_mode: AuthMode,
) -> String {
    let mut budget = Budget::default();
    let mut fragments = Vec::new();
    let mut unavailable = Vec::new();
    for (service, document) in services.iter().zip(documents) {
        let build = |text: Bytes| {
            budget.spend(|budget| {
                let document = budget::parse(&text)?;
                Fragment::new(services, service, document, default_mode, budget)
            })
        };
        let fragment = document.and_then(build);
        match fragment {
            Ok(fragment) => fragments.push(fragment),
            Err(error) => {
                if matches!(error, DocumentError::TooMuchMemory | DocumentError::TooLargeMerged) {
                    tracing::warn!(service = service.name, "API document left out: {error}");
                }
                unavailable.push((service.name.as_str(), error));
            }
        }
    }
    rename::resolve_conflicts(&mut fragments);

    let head = json!({
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
    let mut text = head.to_string();
    text.pop();
    let (mut tags, mut paths) = (Vec::new(), BTreeMap::new());
    let mut components: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    for fragment in fragments {
        tags.extend(fragment.tags);
        paths.extend(fragment.paths);
        for ((section, name), component) in fragment.components {
            components.entry(section).or_default().insert(name, component.text);
        }
    }
    text.push_str(",\"tags\":[");
    write_list(&mut text, tags, |text, tag| text.push_str(&tag));
    text.push_str("],\"paths\":{");
    write_list(&mut text, paths, write_member);
    text.push_str("},\"components\":{");
    write_list(&mut text, components, |text, (section, components)| {
        let _ = write!(text, "{}:{{", Value::from(section));
        write_list(text, components, write_member);
        text.push('}');
    });
    text.push_str("}}");
    text
}

/// Writes items with commas between them.
fn write_list<T>(text: &mut String, items: impl IntoIterator<Item = T>, write: impl Fn(&mut String, T)) {
    for (index, item) in items.into_iter().enumerate() {
        if index > 0 {
            text.push(',');
        }
        write(text, item);
    }
}

/// Writes a member of an object.
fn write_member(text: &mut String, (name, value): (String, String)) {
    let _ = write!(text, "{}:{value}", Value::from(name));
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
