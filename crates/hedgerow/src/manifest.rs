//! Finds and reads the `Microservice` objects that describe the services.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::{env, fs};

use anyhow::{Context, anyhow, bail, ensure};
use api::annotations::{COMMAND, LOCAL_PORT, TRY};
use api::{Microservice, MicroserviceSpec};

/// The name of a service's file in its folder.
const FILE_NAME: &str = "microservice.yaml";

/// Where the files are unless the command line says otherwise.
const DEFAULT_FOLDER: &str = "services";

/// The largest value of [`LOCAL_PORT`]; with larger ones the port ranges would overlap.
pub const MAX_LOCAL_PORT: u16 = 999;

// `EMBEDDED`: the name and the text of the files of this workspace.
include!(concat!(env!("OUT_DIR"), "/manifests.rs"));

/// A service as its file describes it.
#[derive(Clone, Debug)]
pub struct Manifest {
    pub name: String,
    pub spec: MicroserviceSpec,
    /// The command that runs it; if `None`, the binary of its name.
    pub command: Option<Vec<String>>,
    pub local_port: Option<u16>,
    pub examples: Vec<Example>,
    /// The file it was read from, for messages.
    pub file: String,
    /// The folder in which its command runs.
    pub folder: PathBuf,
}

/// A request to try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    pub method: String,
    pub path: String,
    pub body: Option<String>,
}

/// Reads the objects of all files and folders in `paths`; if there are none, of `services/*/microservice.yaml`; if
/// there are none either, of the files that are embedded in this binary. The result is sorted by name.
pub fn load(paths: &[PathBuf]) -> anyhow::Result<Vec<Manifest>> {
    let mut manifests = Vec::new();
    let mut files = Vec::new();
    for path in paths {
        files.extend(files_of(path)?);
    }
    if paths.is_empty() {
        files = in_subfolders(Path::new(DEFAULT_FOLDER));
    }
    for file in &files {
        let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        manifests.extend(parse(&file.display().to_string(), &folder_of(file)?, &text)?);
    }
    if files.is_empty() {
        let folder = env::current_dir().context("cannot determine the current folder")?;
        for (file, text) in EMBEDDED {
            manifests.extend(parse(&format!("{file} (embedded)"), &folder, text)?);
        }
    }
    manifests.sort_by(|one, other| one.name.cmp(&other.name));
    check(&manifests)?;
    Ok(manifests)
}

/// The files that an argument names: itself, the file in the folder, or those in its subfolders.
fn files_of(path: &Path) -> anyhow::Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let own = path.join(FILE_NAME);
    if own.is_file() {
        return Ok(vec![own]);
    }
    let files = in_subfolders(path);
    ensure!(!files.is_empty(), "no {FILE_NAME} in {} or its subfolders", path.display());
    Ok(files)
}

fn in_subfolders(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut files: Vec<_> = entries.map(|entry| entry.path().join(FILE_NAME)).filter(|file| file.is_file()).collect();
    files.sort();
    files
}

fn folder_of(file: &Path) -> anyhow::Result<PathBuf> {
    let file = std::path::absolute(file).with_context(|| format!("cannot resolve {}", file.display()))?;
    Ok(file.parent().map_or_else(PathBuf::new, Path::to_owned))
}

fn parse(file: &str, folder: &Path, text: &str) -> anyhow::Result<Vec<Manifest>> {
    let objects = api::parse(text).map_err(|error| anyhow!("{file}: {error}"))?;
    objects.into_iter().map(|object| manifest(object, file, folder).with_context(|| file.to_owned())).collect()
}

fn manifest(object: Microservice, file: &str, folder: &Path) -> anyhow::Result<Manifest> {
    let name = object.metadata.name.unwrap_or_default();
    let annotations = object.metadata.annotations.unwrap_or_default();
    let annotation = |key| annotations.get(key).map(|value| value.trim());
    let invalid = |key: &str| format!("Microservice {name}: metadata.annotations[{key}]");
    let command = annotation(COMMAND).map(command).transpose().with_context(|| invalid(COMMAND))?;
    let local_port = annotation(LOCAL_PORT).map(local_port).transpose().with_context(|| invalid(LOCAL_PORT))?;
    let examples = annotation(TRY).unwrap_or_default().lines().map(str::trim).filter(|line| !line.is_empty());
    let examples = examples.map(example).collect::<Result<_, _>>().with_context(|| invalid(TRY))?;
    let (file, folder) = (file.to_owned(), folder.to_owned());
    Ok(Manifest { name, spec: object.spec, command, local_port, examples, file, folder })
}

fn command(text: &str) -> anyhow::Result<Vec<String>> {
    let words = shlex::split(text).context("unclosed quote")?;
    ensure!(!words.is_empty(), "must not be empty: set a command such as `python3 orders.py`");
    Ok(words)
}

fn local_port(text: &str) -> anyhow::Result<u16> {
    let number = text.parse().ok().filter(|number| *number <= MAX_LOCAL_PORT);
    number.with_context(|| format!("must be a number from 0 to {MAX_LOCAL_PORT}, not {text:?}"))
}

/// Parses `METHOD /path [JSON]`.
fn example(line: &str) -> anyhow::Result<Example> {
    let mut parts = line.splitn(3, ' ').map(str::trim);
    let (Some(method), Some(path), body) = (parts.next(), parts.next(), parts.next()) else {
        bail!("{line:?} must have the form METHOD /path [JSON]");
    };
    let is_method = !method.is_empty() && method.bytes().all(|byte| byte.is_ascii_uppercase());
    ensure!(is_method && path.starts_with('/'), "{line:?} must have the form METHOD /path [JSON]");
    if let Some(body) = body {
        serde_json::from_str::<serde_json::Value>(body).with_context(|| format!("the body of {line:?} is not JSON"))?;
    }
    Ok(Example { method: method.to_owned(), path: path.to_owned(), body: body.map(str::to_owned) })
}

/// Checks the rules that span several objects.
fn check(manifests: &[Manifest]) -> anyhow::Result<()> {
    ensure!(!manifests.is_empty(), "no services: pass files or folders with -f");
    for (index, one) in manifests.iter().enumerate() {
        for other in &manifests[index + 1..] {
            if one.name == other.name {
                bail!("{}: Microservice {} is already defined in {}", other.file, one.name, one.file);
            }
            if let Some(path) = shared_path(one, other) {
                let (one, other) = (&one.name, &other.name);
                bail!("services {one} and {other} both have the path {path}: change spec.route.paths of one of them");
            }
            if one.local_port.is_some() && one.local_port == other.local_port {
                let (one, other) = (&one.name, &other.name);
                bail!("services {one} and {other} have the same {LOCAL_PORT}: change the annotation of one of them");
            }
        }
    }
    Ok(())
}

fn shared_path<'a>(one: &'a Manifest, other: &Manifest) -> Option<&'a str> {
    let (one, other) = (one.spec.route.as_ref()?, other.spec.route.as_ref()?);
    one.paths.iter().find(|path| other.paths.contains(path)).map(String::as_str)
}

/// The files named by `-f` or `--file` in a command line that has not been parsed: the services they describe determine
/// which flags there are.
pub fn arguments<T: AsRef<OsStr>>(arguments: &[T]) -> Vec<PathBuf> {
    let mut paths = Vec::new();
    let mut rest = arguments.iter().map(AsRef::as_ref);
    while let Some(argument) = rest.next() {
        let text = argument.to_str().unwrap_or_default();
        if text == "-f" || text == "--file" {
            paths.extend(rest.next().map(PathBuf::from));
        } else if let Some(path) = ["--file=", "-f=", "-f"].iter().find_map(|prefix| text.strip_prefix(prefix)) {
            paths.push(path.into());
        }
    }
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(name: &str, annotations: &str, spec: &str) -> String {
        format!(
            "apiVersion: hedgerow.dev/v1alpha1\nkind: Microservice\n\
             metadata: {{name: {name}, annotations: {{{annotations}}}}}\nspec: {{image: 'r/x:1', {spec}}}\n"
        )
    }

    fn read(texts: &[String]) -> Result<Vec<Manifest>, String> {
        let parsed = texts.iter().map(|text| parse("a.yaml", Path::new("/a"), text));
        let manifests = parsed.collect::<anyhow::Result<Vec<_>>>().map(|all| all.concat());
        manifests.and_then(|all| check(&all).map(|()| all)).map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn the_embedded_files_are_valid() {
        let manifests = EMBEDDED.iter().map(|(file, text)| parse(file, Path::new("/"), text).unwrap());
        check(&manifests.flatten().collect::<Vec<_>>()).unwrap();
    }

    #[test]
    fn annotations_say_how_to_run_a_service() {
        let annotations = r#"hedgerow.dev/command: "python3 'a b.py'", hedgerow.dev/local-port: "7", hedgerow.dev/try: "POST /a {\"b\": 1}\nGET /a""#;
        let manifest = &read(&[object("a", annotations, "")]).unwrap()[0];
        assert_eq!(manifest.command.as_deref().unwrap(), ["python3", "a b.py"]);
        assert_eq!(manifest.local_port, Some(7));
        let example = |method: &str, body: Option<&str>| Example {
            method: method.to_owned(),
            path: "/a".to_owned(),
            body: body.map(str::to_owned),
        };
        assert_eq!(manifest.examples, [example("POST", Some(r#"{"b": 1}"#)), example("GET", None)]);
    }

    #[test]
    fn errors_name_the_file_the_object_and_the_field() {
        for (annotations, spec, expected) in [
            ("", "color: red", "a.yaml: document 1: Microservice a: spec: unknown field color"),
            (
                "hedgerow.dev/local-port: '1000'",
                "",
                "a.yaml: Microservice a: metadata.annotations[hedgerow.dev/local-port]: \
                 must be a number from 0 to 999, not \"1000\"",
            ),
            (
                "hedgerow.dev/command: \"a 'b\"",
                "",
                "a.yaml: Microservice a: metadata.annotations[hedgerow.dev/command]: unclosed quote",
            ),
            (
                "hedgerow.dev/try: \"get /a\"",
                "",
                "a.yaml: Microservice a: metadata.annotations[hedgerow.dev/try]: \
                 \"get /a\" must have the form METHOD /path [JSON]",
            ),
        ] {
            assert_eq!(read(&[object("a", annotations, spec)]).unwrap_err(), expected);
        }
        let error = read(&[object("a", "hedgerow.dev/try: 'PUT /a {b'", "")]).unwrap_err();
        assert!(error.contains("the body of \"PUT /a {b\" is not JSON"), "{error}");
    }

    #[test]
    fn names_paths_and_local_ports_are_unique() {
        let a = || object("a", "hedgerow.dev/local-port: '1'", "route: {paths: [/x, /y]}");
        for (other, expected) in [
            (object("a", "", ""), "a.yaml: Microservice a is already defined in a.yaml"),
            (
                object("b", "", "route: {paths: [/y]}"),
                "services a and b both have the path /y: change spec.route.paths of one of them",
            ),
            (
                object("b", "hedgerow.dev/local-port: '1'", ""),
                "services a and b have the same hedgerow.dev/local-port: change the annotation of one of them",
            ),
        ] {
            assert_eq!(read(&[a(), other]).unwrap_err(), expected);
        }
    }

    #[test]
    fn every_form_of_the_file_flag_is_recognized() {
        let found =
            arguments(&["hedgerow", "up", "-f", "a", "-fb", "-f=c", "--file=d", "--file", "e", "--users-addr", "x"]);
        assert_eq!(found, ["a", "b", "c", "d", "e"].map(PathBuf::from));
    }
}
