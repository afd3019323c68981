//! Objects in a YAML file.

use kube::Resource;
use serde_json::Value;

use crate::{Microservice, Refused, admit};

/// Why a file was refused.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The text is not YAML.
    #[error("not YAML: {0}")]
    Syntax(#[from] serde_saphyr::Error),
    /// The text holds no document.
    #[error("the file is empty")]
    Empty,
    /// A document is of another kind.
    #[error("document {position}: not a {} of {}", Microservice::kind(&()), Microservice::api_version(&()))]
    Kind {
        /// The document's number, from 1.
        position: usize,
    },
    /// The API server would refuse an object.
    #[error("document {position}: {} {name}: {reasons}", Microservice::kind(&()))]
    Refused {
        /// The document's number, from 1.
        position: usize,
        /// The object's name.
        name: String,
        /// Every reason there is.
        #[source]
        reasons: Refused,
    },
}

/// Parses the `Microservice` objects of a YAML text, with their defaults.
///
/// # Errors
/// Returns an error if the text holds anything but `Microservice` objects that an API server would accept.
pub fn parse(text: &str) -> Result<Vec<Microservice>, FileError> {
    let one_line = serde_saphyr::options! { with_snippet: false };
    let documents: Vec<Value> = serde_saphyr::from_multiple_with_options(text, one_line)?;
    if documents.is_empty() {
        return Err(FileError::Empty);
    }
    (1..).zip(&documents).map(|(position, document)| object(position, document)).collect()
}

fn object(position: usize, document: &Value) -> Result<Microservice, FileError> {
    let (version, kind) = (Microservice::api_version(&()), Microservice::kind(&()));
    if document["apiVersion"] != *version || document["kind"] != *kind {
        return Err(FileError::Kind { position });
    }
    admit(document, None).map_err(|reasons| {
        let name = document["metadata"]["name"].as_str().unwrap_or("(no name)").to_owned();
        FileError::Refused { position, name, reasons }
    })
}
