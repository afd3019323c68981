//! `operator chart`: the chart follows from `services/*/microservice.yaml`. `operator manifests`: its objects are those
//! of the chart.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::Value;
use tempfile::TempDir;

const GENERATED: [&str; 4] =
    ["crds/microservices.yaml", "templates/_services.tpl", "values.schema.json", "values.yaml"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A copy of the generated files of the chart, and the files of the services.
struct Copy {
    folder: TempDir,
    services: Vec<PathBuf>,
}

impl Copy {
    fn new() -> Self {
        let folder = TempDir::new().expect("a folder");
        for file in GENERATED {
            let copy = folder.path().join(file);
            fs::create_dir_all(copy.parent().expect("a folder")).expect("the folder is created");
            fs::copy(root().join("helm/hedgerow").join(file), copy).expect("the file is copied");
        }
        let services =
            ["gateway", "inventory", "users"].map(|name| root().join(format!("services/{name}/microservice.yaml")));
        Self { folder, services: services.into() }
    }

    fn add(&mut self, name: &str, text: &str) {
        let folder = self.folder.path().join("services").join(name);
        fs::create_dir_all(&folder).expect("the folder is created");
        fs::write(folder.join("microservice.yaml"), text).expect("the file is written");
        self.services.push(folder.join("microservice.yaml"));
    }

    fn run(&self, flags: &[&str]) -> Output {
        let mut operator = Command::new(env!("CARGO_BIN_EXE_operator"));
        operator
            .arg("chart")
            .args(flags)
            .arg(self.folder.path())
            .args(&self.services)
            .output()
            .expect("the operator runs")
    }

    fn read(&self, file: &str) -> String {
        fs::read_to_string(self.folder.path().join(file)).expect("the file is there")
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn chart_of_the_repository_is_up_to_date() {
    let output = Copy::new().run(&["--check"]);
    assert!(output.status.success(), "{}", stderr(&output));
}

#[test]
fn new_service_is_added_to_values_and_template() {
    let mut copy = Copy::new();
    let image = format!("localhost/hedgerow/orders:{}", env!("CARGO_PKG_VERSION"));
    copy.add(
        "orders",
        &format!(
            "apiVersion: hedgerow.dev/v1alpha1\nkind: Microservice\nmetadata: {{name: orders}}\n\
             spec:\n  image: {image}\n  database: {{}}\n  # Stock.\n  calls: [inventory]\n"
        ),
    );
    let check = copy.run(&["--check"]);
    assert_eq!(check.status.code(), Some(1));
    let error = stderr(&check);
    assert!(error.contains("values.yaml") && error.ends_with("run `make manifests`\n"), "{error}");
    assert!(!copy.read("values.yaml").contains("\n  orders:\n"), "a check changes nothing");

    let output = copy.run(&[]);
    assert!(output.status.success(), "{}", stderr(&output));
    let values = copy.read("values.yaml");
    assert!(
        values.contains("\n  orders:\n    database: {}\n    # Stock.\n    calls: [inventory]\n  # Users"),
        "{values}"
    );
    assert!(copy.read("templates/_services.tpl").contains(r#"["gateway","inventory","orders","users"]"#));
    assert!(copy.run(&["--check"]).status.success());
}

#[test]
fn invalid_service_file_is_named() {
    let mut copy = Copy::new();
    copy.add("orders", "apiVersion: hedgerow.dev/v1alpha1\nkind: Microservice\nmetadata: {name: orders}\nspec: {}\n");
    let error = stderr(&copy.run(&[]));
    assert!(error.contains("services/orders/microservice.yaml: document 1: Microservice orders: spec: "), "{error}");
}

/// Objects by kind and name.
type Objects = BTreeMap<(String, String), Value>;

/// The objects that both have: those of the operator, the permissions of the gateway, and the account of administrators.
fn shared_objects(yaml: &[u8]) -> Objects {
    let documents: Vec<Value> = serde_saphyr::from_multiple(str::from_utf8(yaml).expect("text")).expect("YAML");
    let key = |object: &Value| {
        let text = |value: &Value| value.as_str().expect("kind and name").to_owned();
        (text(&object["kind"]), text(&object["metadata"]["name"]))
    };
    let mut objects: Objects = documents.into_iter().map(|object| (key(&object), object)).collect();
    objects.retain(|(_, name), _| ["hedgerow-operator", "hedgerow-gateway", "hedgerow-admin"].contains(&name.as_str()));
    objects.values_mut().for_each(without_labels_of_helm);
    objects
}

fn without_labels_of_helm(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for label in ["instance", "managed-by", "version"] {
                fields.remove(&format!("app.kubernetes.io/{label}"));
            }
            fields.remove("helm.sh/chart");
            fields.values_mut().for_each(without_labels_of_helm);
        }
        Value::Array(items) => items.iter_mut().for_each(without_labels_of_helm),
        _ => {}
    }
}

/// The environment of the operator's container.
fn environment(objects: &mut Objects) -> &mut Vec<Value> {
    let key = ("Deployment".to_owned(), "hedgerow-operator".to_owned());
    let deployment = objects.get_mut(&key).expect("the Deployment");
    deployment.pointer_mut("/spec/template/spec/containers/0/env").and_then(Value::as_array_mut).expect("variables")
}

/// `make check-chart` runs it.
#[test]
#[ignore = "needs helm"]
fn chart_and_manifests_have_the_same_objects() {
    let output = |command: &mut Command| {
        let output = command.output().expect("it runs");
        assert!(output.status.success(), "{}", stderr(&output));
        output.stdout
    };
    let chart = output(Command::new("helm").args(["template", "hedgerow"]).arg(root().join("helm/hedgerow")));
    let manifests = output(Command::new(env!("CARGO_BIN_EXE_operator")).arg("manifests"));
    let (mut chart, mut manifests) = (shared_objects(&chart), shared_objects(&manifests));
    // The chart passes its values on as variables. The manifests leave them to the operator's defaults.
    let expected = environment(&mut manifests).clone();
    environment(&mut chart).retain(|variable| expected.contains(variable));
    for (key, object) in &chart {
        assert_eq!(Some(object), manifests.get(key), "{key:?}");
    }
    assert_eq!(chart.len(), manifests.len());
}
