//! `operator render`: prints the children of the objects in a file as YAML, without a cluster.

#![allow(clippy::doc_markdown, reason = "`--help` shows backticks as they are")]

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

use anyhow::Context;
use api::Microservice;
use clap::Args;
use serde::Serialize;
use serde_saphyr::SerializeError;

use crate::{
    auth::AuthArgs,
    manifests::{self, Manifests, RenderInputs},
};

/// What to render, and for which cluster.
#[derive(Debug, Args)]
pub(crate) struct RenderArgs {
    /// A YAML file of Microservices, or - for standard input
    #[arg(short, long, value_name = "FILE")]
    file: PathBuf,
    /// A namespace that may scrape metrics (repeatable) [default: all]
    #[arg(long = "scrape-namespace", value_name = "NAME")]
    scrape_namespaces: Vec<String>,
    /// Render PodMonitors, for a cluster that has the kind
    #[arg(long)]
    pod_monitors: bool,
    #[command(flatten)]
    auth: AuthArgs,
}

/// The children of all objects in the file, as YAML documents.
///
/// # Errors
/// Returns an error if the file cannot be read, or contains anything but `Microservice` objects that the API server
/// would accept.
pub(crate) fn file(args: &RenderArgs) -> anyhow::Result<String> {
    let name = if args.file == Path::new("-") { "standard input".to_owned() } else { args.file.display().to_string() };
    let text = read(&args.file).with_context(|| format!("cannot read {name}"))?;
    let objects = api::parse(&text).with_context(|| name.clone())?;
    let rendered = objects.iter().map(|object| {
        let inputs = RenderInputs {
            // The other objects of the cluster are not known, so no older one can claim a path.
            accepted_paths: object.spec.route.iter().flat_map(|route| route.paths.clone()).collect(),
            scrape_namespaces: args.scrape_namespaces.clone(),
            pod_monitor: args.pod_monitors.then(BTreeMap::new),
            authentication: args.auth.authentication(),
            ..RenderInputs::default()
        };
        Ok(documents(object, &inputs.with_siblings(object, &objects))?)
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

/// The children of an object as YAML documents, in the order in which they are applied.
fn documents(object: &Microservice, inputs: &RenderInputs) -> Result<String, SerializeError> {
    let Manifests {
        service_account,
        migration,
        deployment,
        services,
        autoscaler,
        disruption_budget,
        network_policies,
        pod_monitor,
    } = manifests::render(object, inputs);
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
