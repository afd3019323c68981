//! `operator render`: the children of the objects in a file as YAML, without a cluster.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

use anyhow::{Context, ensure};
use clap::Args;
use kube::Resource;
use serde::Serialize;
use serde_json::Value;
use serde_saphyr::SerializeError;

use crate::{
    admission,
    api::Microservice,
    build::{self, Facts},
};

/// What to render, and for what cluster.
#[derive(Debug, Args)]
pub(crate) struct RenderArgs {
    /// A file of `Microservice` objects; `-` for standard input
    #[arg(short, long, value_name = "FILE")]
    file: PathBuf,
    /// A namespace from which metrics may be scraped; may be repeated; left out: all
    #[arg(long = "scrape-namespace", value_name = "NAME")]
    scrape_namespaces: Vec<String>,
    /// Whether the cluster has the kind `PodMonitor`
    #[arg(long)]
    pod_monitors: bool,
}

/// The children of all objects of the file, as YAML documents.
///
/// # Errors
/// Where the file cannot be read, or holds anything but `Microservice`s that an API server would accept.
pub(crate) fn file(args: &RenderArgs) -> anyhow::Result<String> {
    let name = if args.file == Path::new("-") { "standard input".into() } else { args.file.to_string_lossy() };
    let text = read(&args.file).with_context(|| format!("cannot read {name}"))?;
    let one_line = serde_saphyr::options! { with_snippet: false };
    let documents: Vec<Value> =
        serde_saphyr::from_multiple_with_options(&text, one_line).with_context(|| format!("{name} is not YAML"))?;
    ensure!(!documents.is_empty(), "{name} is empty");
    let rendered = documents.iter().enumerate().map(|(position, document)| {
        object(document, args).with_context(|| format!("{name}: document {}", position + 1))
    });
    rendered.collect()
}

fn read(file: &Path) -> io::Result<String> {
    if file == Path::new("-") {
        let mut text = String::new();
        io::stdin().read_to_string(&mut text)?;
        Ok(text)
    } else {
        fs::read_to_string(file)
    }
}

fn object(value: &Value, args: &RenderArgs) -> anyhow::Result<String> {
    let (version, kind) = (Microservice::api_version(&()), Microservice::kind(&()));
    ensure!(value["apiVersion"] == *version && value["kind"] == *kind, "not a {kind} of {version}");
    let name = value["metadata"]["name"].as_str().unwrap_or("without a name");
    let object = admission::admit(value, None).with_context(|| format!("{kind} {name}"))?;
    let facts = Facts {
        // There is no older object that could have one of them.
        accepted_paths: object.spec.route.iter().flat_map(|route| route.paths.clone()).collect(),
        scrape_namespaces: args.scrape_namespaces.clone(),
        pod_monitor: args.pod_monitors.then(BTreeMap::new),
        ..Facts::default()
    };
    Ok(documents(&object, &facts)?)
}

/// The children of an object, in the order in which they are applied.
pub(crate) fn documents(object: &Microservice, facts: &Facts) -> Result<String, SerializeError> {
    let build::Children {
        service_account,
        migration,
        deployment,
        services,
        autoscaler,
        disruption_budget,
        network_policies,
        pod_monitor,
    } = build::render(object, facts);
    let all = [
        vec![yaml(&service_account)?],
        services.iter().map(yaml).collect::<Result<_, _>>()?,
        network_policies.iter().map(yaml).collect::<Result<_, _>>()?,
        disruption_budget.iter().map(yaml).collect::<Result<_, _>>()?,
        migration.iter().map(yaml).collect::<Result<_, _>>()?,
        vec![yaml(&deployment)?],
        autoscaler.iter().map(yaml).collect::<Result<_, _>>()?,
        pod_monitor.iter().map(yaml).collect::<Result<_, _>>()?,
    ];
    Ok(all.into_iter().flatten().collect())
}

fn yaml<T: Serialize>(child: &T) -> Result<String, SerializeError> {
    Ok(format!("---\n{}", serde_saphyr::to_string(child)?))
}
