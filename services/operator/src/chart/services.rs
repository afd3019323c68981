//! Reads `services/NAME/microservice.yaml`: the spec of a service as the chart's values have it.

use std::{fs, path::Path};

use anyhow::{Context, bail, ensure};
use serde_json::Value;

/// Where the project's own images are built; the chart's `image.registry` replaces it.
const REGISTRY: &str = "localhost/hedgerow";

/// A service of the project.
#[derive(Debug)]
pub(super) struct Service {
    pub(super) name: String,
    /// Whether `deploy/images.sh` builds its image, as the prefix of the image says. The chart's registry and tag apply
    /// to it.
    pub(super) built_here: bool,
    /// The lines of its entry in the values, with the comments of the file.
    pub(super) entry: String,
}

/// Reads the files and sorts the services by name.
///
/// # Errors
/// Returns an error if a file cannot be read or does not hold exactly one valid object, named after its folder.
pub(super) fn read(files: &[impl AsRef<Path>]) -> anyhow::Result<Vec<Service>> {
    let services = files.iter().map(|file| {
        let file = file.as_ref();
        let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        let folder = file.parent().and_then(Path::file_name).and_then(|name| name.to_str()).unwrap_or_default();
        parse(folder, &text).with_context(|| file.display().to_string())
    });
    let mut services = services.collect::<anyhow::Result<Vec<_>>>()?;
    services.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(services)
}

fn parse(folder: &str, text: &str) -> anyhow::Result<Service> {
    let objects = api::parse(text)?;
    let [object] = objects.as_slice() else { bail!("expected one Microservice, found {}", objects.len()) };
    let name = object.metadata.name.clone().unwrap_or_default();
    ensure!(name == folder, "the Microservice must have the name of its folder, {folder}, not {name}");
    let own = format!("{REGISTRY}/{name}:");
    let built_here = object.spec.image.starts_with(&own);
    let version = env!("CARGO_PKG_VERSION");
    ensure!(
        !built_here || object.spec.image == format!("{own}{version}"),
        "spec.image must be {own}{version}, the version of the workspace, and not {}",
        object.spec.image
    );
    // The defaults are left out: the values only have what the file has.
    let document: Value = serde_saphyr::from_str(text)?;
    let mut spec = document["spec"].clone();
    if built_here {
        spec.as_object_mut().map(|spec| spec.remove("image"));
    }
    let entry = match copied(&name, text, built_here) {
        Some(entry) if means(&entry, &name, &spec) => entry,
        _ => serialized(&name, &spec)?,
    };
    Ok(Service { name, built_here, entry })
}

/// Copies the lines of a spec in block style, with their comments and those at the top of the file.
fn copied(name: &str, text: &str, without_image: bool) -> Option<String> {
    let comments: String =
        text.lines().take_while(|line| line.starts_with('#')).map(|line| indented(2, line)).collect();
    let body: Vec<&str> = text
        .lines()
        .skip_while(|line| line.trim_end() != "spec:")
        .skip(1)
        .take_while(|line| line.is_empty() || line.starts_with([' ', '#']))
        .collect();
    let first = body.iter().find(|line| !is_comment(line))?;
    let depth = first.len() - first.trim_start().len();
    let mut lines = String::new();
    for line in &body {
        let line =
            line.get(..depth).filter(|start| start.trim().is_empty()).map_or(line.trim_start(), |_| &line[depth..]);
        if !(without_image && line.starts_with("image:")) {
            lines += &indented(4, line);
        }
    }
    let empty = if lines.lines().all(is_comment) { " {}" } else { "" };
    Some(format!("{comments}  {name}:{empty}\n{lines}"))
}

fn is_comment(line: &str) -> bool {
    let line = line.trim_start();
    line.is_empty() || line.starts_with('#')
}

fn means(entry: &str, name: &str, spec: &Value) -> bool {
    serde_saphyr::from_str::<Value>(entry).is_ok_and(|value| value[name] == *spec)
}

/// Writes a spec anew, without comments.
fn serialized(name: &str, spec: &Value) -> anyhow::Result<String> {
    if spec.as_object().is_some_and(serde_json::Map::is_empty) {
        return Ok(format!("  {name}: {{}}\n"));
    }
    let lines = serde_saphyr::to_string(spec)?;
    Ok(format!("  {name}:\n") + &lines.lines().map(|line| indented(4, line)).collect::<String>())
}

fn indented(width: usize, line: &str) -> String {
    if line.trim().is_empty() { "\n".to_owned() } else { format!("{:width$}{}\n", "", line.trim_end()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "apiVersion: hedgerow.dev/v1alpha1\nkind: Microservice\nmetadata: {name: orders}\n";

    fn entry(text: &str) -> String {
        parse("orders", text).expect("a service").entry
    }

    fn error(folder: &str, text: &str) -> String {
        format!("{:#}", parse(folder, text).expect_err("it is refused"))
    }

    #[test]
    fn an_entry_is_the_spec_with_comments_and_without_the_image() {
        let text = format!(
            "# Orders.\n{HEAD}spec:\n  image: localhost/hedgerow/orders:{}\n  # One a team.\n  database: {{}}\n\n  \
             scaling:\n    min: 3 # Never fewer.\n  # env: []\n",
            env!("CARGO_PKG_VERSION")
        );
        let expected = "  # Orders.\n  orders:\n    # One a team.\n    database: {}\n\n    scaling:\n      \
                        min: 3 # Never fewer.\n    # env: []\n";
        assert_eq!(entry(&text), expected);
    }

    #[test]
    fn spec_with_nothing_but_an_image_is_empty() {
        let image = format!("localhost/hedgerow/orders:{}", env!("CARGO_PKG_VERSION"));
        assert_eq!(entry(&format!("{HEAD}spec:\n  image: {image}\n")), "  orders: {}\n");
        assert_eq!(entry(&format!("{HEAD}spec: {{image: '{image}'}}\n")), "  orders: {}\n");
    }

    #[test]
    fn a_spec_in_flow_style_is_rewritten() {
        let text = format!("{HEAD}spec: {{image: 'registry.example/orders:1.0', database: {{}}}}\n");
        assert_eq!(entry(&text), "  orders:\n    database: {}\n    image: registry.example/orders:1.0\n");
    }

    #[test]
    fn image_from_elsewhere_is_kept() {
        let service =
            parse("orders", &format!("{HEAD}spec:\n  image: registry.example/orders:1.0\n")).expect("a service");
        assert!(!service.built_here);
        assert_eq!(service.entry, "  orders:\n    image: registry.example/orders:1.0\n");
    }

    #[test]
    fn errors_say_what_is_wrong_with_a_file() {
        let image = |version: &str| format!("{HEAD}spec:\n  image: localhost/hedgerow/orders:{version}\n");
        assert!(error("orders", &image("0.0.1")).contains("spec.image must be localhost/hedgerow/orders:"));
        assert!(
            error("baskets", &image(env!("CARGO_PKG_VERSION")))
                .contains("must have the name of its folder, baskets, not orders")
        );
        assert!(error("orders", &image("latest")).contains("a tag other than latest"));
    }
}
