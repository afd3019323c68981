//! `Microservice` objects in a YAML file.

use kube::Resource;
use serde_json::Value;

use super::{
    admission::{Refused, admit},
    spec::Microservice,
};

/// Why a file was refused. The message contains the cause, so there is no `source`.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The text is not YAML.
    #[error("not YAML: {0}")]
    Syntax(Box<serde_saphyr::Error>),
    /// The text holds no document.
    #[error("the file is empty")]
    Empty,
    /// A document is not a `Microservice`.
    #[error("document {position}: not a {} of {}", Microservice::kind(&()), Microservice::api_version(&()))]
    Kind {
        /// The number of the document, from 1.
        position: usize,
    },
    /// The API server would refuse an object.
    #[error("document {position}: {} {name}: {reasons}", Microservice::kind(&()))]
    Refused {
        /// The number of the document, from 1.
        position: usize,
        /// The name of the object.
        name: String,
        /// Every reason.
        reasons: Refused,
    },
}

/// Parses the `Microservice` objects in a YAML text and fills in their defaults.
///
/// # Errors
/// Returns an error if the text contains anything but `Microservice` objects that the API server would accept.
pub fn parse(text: &str) -> Result<Vec<Microservice>, FileError> {
    let one_line = serde_saphyr::options! { with_snippet: false };
    let documents: Vec<Value> =
        serde_saphyr::from_multiple_with_options(text, one_line).map_err(|error| FileError::Syntax(Box::new(error)))?;
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
