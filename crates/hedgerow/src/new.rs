//! `hedgerow new NAME`: writes a small service from the templates in `templates/`.

mod words;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use self::words::{is_rust_word, placeholders};
use crate::cli::New;

/// The file of a service and its template. `{{name}}` and the like are replaced in both.
type Template = (&'static str, &'static str);

/// Pairs each file with the template of the same name.
macro_rules! templates {
    ($folder:literal: $($file:literal <- $template:literal),* $(,)?) => {
        &[$(($file, include_str!(concat!("../templates/", $folder, "/", $template, ".tmpl")))),*]
    };
}

const RUST: &[Template] = templates!("rust":
    "services/{{name}}/Cargo.toml" <- "Cargo.toml",
    "services/{{name}}/build.rs" <- "build.rs",
    "services/{{name}}/microservice.yaml" <- "microservice.yaml",
    "services/{{name}}/src/main.rs" <- "src/main.rs",
    "services/{{name}}/src/lib.rs" <- "src/lib.rs",
    "services/{{name}}/src/error.rs" <- "src/error.rs",
    "services/{{name}}/src/model.rs" <- "src/model.rs",
    "services/{{name}}/src/routes.rs" <- "src/routes.rs",
    "services/{{name}}/src/routes/create.rs" <- "src/routes/create.rs",
    "services/{{name}}/src/routes/get.rs" <- "src/routes/get.rs",
    "services/{{name}}/src/routes/list.rs" <- "src/routes/list.rs",
    "services/{{name}}/src/store.rs" <- "src/store.rs",
    "services/{{name}}/tests/api/main.rs" <- "tests/api/main.rs",
    "services/{{name}}/.sqlx/query-{{hash}}.json" <- "sqlx/get.json",
    "services/{{name}}/.sqlx/query-{{hash}}.json" <- "sqlx/insert.json",
    "services/{{name}}/.sqlx/query-{{hash}}.json" <- "sqlx/list.json",
    "migrations/{{name}}/0001_{{crate}}.sql" <- "migration.sql",
);

const PYTHON: &[Template] = templates!("python":
    "services/{{name}}/{{crate}}.py" <- "service.py",
    "services/{{name}}/microservice.yaml" <- "microservice.yaml",
    "services/{{name}}/Dockerfile" <- "Dockerfile",
);

/// The files that rustfmt starts from; their modules follow. Templates cannot be formatted: the length of a name
/// decides where lines are broken.
const FORMATTED: [&str; 4] = ["build.rs", "src/main.rs", "src/lib.rs", "tests/api/main.rs"];

/// Writes the service into the current folder.
pub fn run(new: &New) -> anyhow::Result<ExitCode> {
    let root = env::current_dir().context("cannot determine the current folder")?;
    let name = new.name.as_str();
    check(&root, name, new.python)?;
    for (file, text) in files(name, new.python)? {
        let path = root.join(file);
        let folder = path.parent().unwrap_or(&root);
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    let folder = Path::new("services").join(name);
    if new.python {
        exclude(&root, name)?;
        let script = format!("{}.py", name.replace('-', "_"));
        println!("Created {}. It keeps its data in memory; {script} says how to add a database.", folder.display());
    } else {
        format(&root.join(&folder));
        println!("Created {} and migrations/{name}.", folder.display());
    }
    println!("\nRun it with all other services, reachable through the gateway:\n\n  make run\n");
    println!("Add it to the chart:\n\n  make manifests\n");
    Ok(ExitCode::SUCCESS)
}

/// Refuses a name that does not work, with the reason.
fn check(root: &Path, name: &str, python: bool) -> anyhow::Result<()> {
    let object = json!({
        "apiVersion": "hedgerow.dev/v1alpha1",
        "kind": "Microservice",
        "metadata": {"name": name},
        "spec": {"image": concat!("localhost/hedgerow/service:", env!("CARGO_PKG_VERSION")), "database": {}},
    });
    api::admit(&object, None).with_context(|| format!("{name:?} cannot be the name of a service"))?;
    ensure!(
        root.join("services").is_dir(),
        "there is no `services` folder here: run this from the root of the workspace"
    );
    for folder in [format!("services/{name}"), format!("migrations/{name}")] {
        ensure!(!root.join(&folder).exists(), "{folder} already exists: choose another name or remove it");
    }
    if !python {
        ensure!(!is_rust_word(name), "{name:?} cannot be the name of a Rust crate: choose another name");
        let lock = fs::read_to_string(root.join("Cargo.lock")).unwrap_or_default();
        let is_taken = lock.lines().any(|line| line == format!("name = \"{name}\""));
        ensure!(!is_taken, "this workspace already uses a crate called {name}: choose another name");
    }
    Ok(())
}

/// Excludes a folder without a Cargo.toml from the members `services/*` of the workspace.
fn exclude(root: &Path, name: &str) -> anyhow::Result<()> {
    let path = root.join("Cargo.toml");
    let Ok(text) = fs::read_to_string(&path) else { return Ok(()) };
    fs::write(&path, with_excluded(&text, name)).with_context(|| format!("cannot write {}", path.display()))
}

fn with_excluded(manifest: &str, name: &str) -> String {
    let folder = format!("\"services/{name}\"");
    if let Some((before, after)) = manifest.split_once("\nexclude = [") {
        return format!("{before}\nexclude = [{folder}, {after}");
    }
    manifest.replacen("[workspace]\n", &format!("[workspace]\nexclude = [{folder}]\n"), 1)
}

/// The paths and texts of the service's files.
fn files(name: &str, python: bool) -> anyhow::Result<Vec<(PathBuf, String)>> {
    let templates = if python { PYTHON } else { RUST };
    let placeholders = placeholders(name);
    let fill = |text: &str| {
        placeholders.iter().fold(text.to_owned(), |text, (placeholder, value)| text.replace(placeholder, value))
    };
    let render = |(path, template): &Template| {
        let (mut path, mut text) = (fill(path), fill(template));
        if path.contains("{{hash}}") {
            let hash = query_hash(&text).with_context(|| format!("in the template of {path}"))?;
            path = path.replace("{{hash}}", &hash);
            text = text.replace("{{hash}}", &hash);
        }
        Ok((path.into(), text))
    };
    templates.iter().map(render).collect()
}

/// The name that sqlx gives to a query's data: the hash of the query's text.
fn query_hash(data: &str) -> anyhow::Result<String> {
    let data: Value = serde_json::from_str(data)?;
    let query = data["query"].as_str().context("there is no query")?;
    Ok(format!("{:x}", Sha256::digest(query)))
}

/// Formats the code; without rustfmt it stays as it is.
fn format(folder: &Path) {
    let files = FORMATTED.map(|file| folder.join(file));
    let status = Command::new("rustfmt").args(["--edition", "2024"]).args(files).status();
    if !status.is_ok_and(|status| status.success()) {
        eprintln!("hedgerow: rustfmt failed: run `cargo fmt` once it is installed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_placeholder_is_left_over() {
        for (name, python) in [("orders", false), ("my-categories", false), ("orders", true), ("my-boxes", true)] {
            for (path, text) in files(name, python).unwrap() {
                let path = path.to_str().unwrap();
                assert!(!path.contains("{{") && !text.contains("{{"), "{path}:\n{text}");
                assert!(path.contains(name), "{path}");
            }
        }
    }

    #[test]
    fn the_generated_manifest_is_valid() {
        for python in [false, true] {
            let files = files("my-orders", python).unwrap();
            let (_, text) = files.iter().find(|(path, _)| path.ends_with("microservice.yaml")).unwrap();
            let object = api::parse(text).unwrap().remove(0);
            assert_eq!(object.metadata.name.as_deref(), Some("my-orders"));
            assert_eq!(object.spec.image, concat!("localhost/hedgerow/my-orders:", env!("CARGO_PKG_VERSION")));
            assert_eq!(object.spec.database.is_some(), !python);
        }
    }

    #[test]
    fn queries_in_the_code_have_checked_data() {
        let files = files("orders", false).unwrap();
        let text = |end: &str| &files.iter().find(|(path, _)| path.ends_with(end)).unwrap().1;
        let data: Vec<Value> = files
            .iter()
            .filter(|(path, _)| path.extension().is_some_and(|extension| extension == "json"))
            .map(|(_, text)| serde_json::from_str(text).unwrap())
            .collect();
        assert_eq!(data.len(), text("src/store.rs").matches("query_as!").count());
        for data in data {
            assert!(text("src/store.rs").contains(data["query"].as_str().unwrap()));
        }
    }

    #[test]
    fn a_python_service_is_excluded_from_the_workspace() {
        let one = with_excluded("[workspace]\nmembers = [\"services/*\"]\n", "notes");
        assert_eq!(one, "[workspace]\nexclude = [\"services/notes\"]\nmembers = [\"services/*\"]\n");
        let two = with_excluded(&one, "tags");
        assert_eq!(two, "[workspace]\nexclude = [\"services/tags\", \"services/notes\"]\nmembers = [\"services/*\"]\n");
    }

    #[test]
    fn a_name_that_does_not_work_is_refused_with_the_reason() {
        let root = tempfile::tempdir().unwrap();
        let refused = |name, python| format!("{:#}", check(root.path(), name, python).unwrap_err());
        assert!(refused("orders", false).contains("run this from the root of the workspace"));
        fs::create_dir_all(root.path().join("services/users")).unwrap();
        fs::write(root.path().join("Cargo.lock"), "[[package]]\nname = \"serde\"\n").unwrap();
        for (name, expected) in [
            ("Orders", "\"Orders\" cannot be the name of a service: "),
            ("any", "\"any\" cannot be the name of a service: "),
            ("users", "services/users already exists"),
            ("match", "cannot be the name of a Rust crate"),
            ("serde", "this workspace already uses a crate called serde"),
        ] {
            let reason = refused(name, false);
            assert!(reason.contains(expected), "{reason}");
        }
        assert!(check(root.path(), "orders", false).is_ok() && check(root.path(), "serde", true).is_ok());
    }
}
