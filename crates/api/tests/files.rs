//! The files of this repository, and the errors for invalid ones.

use std::{fs, path::Path};

use api::{annotations, grpc_url_variable};

#[test]
fn each_service_file_is_valid_and_named_after_its_folder() {
    let services = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../services");
    let mut local_ports = Vec::new();
    for folder in fs::read_dir(services).expect("the folder of services") {
        let folder = folder.expect("an entry").path();
        let Ok(text) = fs::read_to_string(folder.join("microservice.yaml")) else { continue };
        let objects = api::parse(&text).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let [object] = objects.as_slice() else { panic!("{}: one object expected", folder.display()) };
        let name = object.metadata.name.clone().expect("a name");
        assert!(folder.ends_with(&name), "{name} must not be in {}", folder.display());
        assert_eq!(object.spec.image, format!("localhost/hedgerow/{name}:{}", env!("CARGO_PKG_VERSION")));
        let annotations = object.metadata.annotations.clone().unwrap_or_default();
        let port: u16 = annotations[annotations::LOCAL_PORT].parse().expect("a number");
        local_ports.push((port, name));
    }
    local_ports.sort();
    let expected = [(0, "gateway"), (1, "users"), (2, "inventory")].map(|(port, name)| (port, name.to_owned()));
    assert_eq!(local_ports[..3], expected);
}

#[test]
fn annotation_that_is_not_a_string_is_refused() {
    let text = "apiVersion: hedgerow.dev/v1alpha1\nkind: Microservice\n\
                metadata: {name: orders, annotations: {hedgerow.dev/local-port: 3}}\nspec: {image: 'orders:1.0'}\n";
    let error = api::parse(text).expect_err("a number is refused").to_string();
    assert!(error.contains("metadata.annotations.hedgerow.dev/local-port: 3 is not of type"), "{error}");
}

#[test]
fn url_variable_is_the_upper_case_name_of_the_callee() {
    assert_eq!(grpc_url_variable("order-history"), "ORDER_HISTORY_GRPC_URL");
}
