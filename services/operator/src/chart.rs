//! `operator chart`: updates the parts of the Helm chart that follow from the kind and from
//! `services/*/microservice.yaml`.

mod schema;
mod services;
mod values;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use clap::Args;

use crate::crd;

/// What to update, and from which files.
#[derive(Debug, Args)]
pub(crate) struct ChartArgs {
    /// Change nothing; fail if a file is out of date
    #[arg(long)]
    check: bool,
    /// The folder of the chart
    #[arg(value_name = "CHART")]
    chart: PathBuf,
    /// The files services/NAME/microservice.yaml
    #[arg(value_name = "FILE", required = true)]
    services: Vec<PathBuf>,
}

/// Updates the files of the chart, or checks them, and lists those that changed.
///
/// # Errors
/// Returns an error if a file cannot be read, written or parsed, or if one is out of date and `check` is set.
pub(crate) fn update(args: &ChartArgs) -> anyhow::Result<String> {
    let services = services::read(&args.services)?;
    let path = |name: &str| args.chart.join(name);
    let (schema, values) = (path("values.schema.json"), path("values.yaml"));
    let files = [
        (path("crds/microservices.yaml"), crd::yaml()?),
        (path("templates/_services.tpl"), values::names_template(&services)),
        (schema.clone(), schema::complete(&read(&schema)?).with_context(|| schema.display().to_string())?),
        (values.clone(), values::complete(&read(&values)?, &services).with_context(|| values.display().to_string())?),
    ];
    let mut changed = Vec::new();
    for (file, text) in files {
        if fs::read_to_string(&file).is_ok_and(|old| old == text) {
            continue;
        }
        if !args.check {
            fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
        }
        changed.push(file.display().to_string());
    }
    if args.check && !changed.is_empty() {
        bail!("out of date: {}; run `make manifests`", changed.join(", "));
    }
    Ok(if changed.is_empty() { String::new() } else { format!("updated {}\n", changed.join(", ")) })
}

fn read(file: &Path) -> anyhow::Result<String> {
    fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))
}
