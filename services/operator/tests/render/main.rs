//! `operator render`: snapshots of the children, and the errors for invalid files and arguments.

use std::{
    io::Write,
    process::{Command, Output, Stdio},
};

fn operator(arguments: &[&str], input: &str) -> Output {
    let mut process = Command::new(env!("CARGO_BIN_EXE_operator"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the operator starts");
    process.stdin.take().expect("a pipe").write_all(input.as_bytes()).expect("standard input is read");
    process.wait_with_output().expect("the operator exits")
}

fn rendered(name: &str, flags: &[&str]) -> String {
    let file = format!("{}/tests/render/{name}.yaml", env!("CARGO_MANIFEST_DIR"));
    let output = operator(&[&["render", "--file", &file], flags].concat(), "");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// The error for an invalid file on standard input.
fn error(input: &str) -> String {
    let output = operator(&["render", "-f", "-"], input);
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty(), "nothing is printed on errors");
    String::from_utf8(output.stderr).expect("text")
}

#[test]
fn minimal_service() {
    insta::assert_snapshot!("plain", rendered("plain", &[]));
}

#[test]
fn service_with_every_field() {
    let flags = ["--pod-monitors", "--scrape-namespace", "monitoring", "--scrape-namespace", "metrics"];
    insta::assert_snapshot!("full", rendered("full", &flags));
}

#[test]
fn single_pod_has_no_autoscaler_and_no_disruption_budget() {
    insta::assert_snapshot!("single", rendered("single", &[]));
}

#[test]
fn grpc_service_with_a_route() {
    insta::assert_snapshot!("grpc", rendered("grpc", &[]));
}

#[test]
fn service_that_admits_everything() {
    insta::assert_snapshot!("open", rendered("open", &[]));
}

#[test]
fn objects_of_one_file_that_call_each_other() {
    insta::assert_snapshot!("calls", rendered("calls", &[]));
}

/// The flags of authentication, with users as the issuer.
const SECURED: [&str; 6] =
    ["--auth", "required", "--auth-issuer", "users", "--auth-issuer-url", "https://shop.example"];

#[test]
fn services_that_verify_tokens() {
    insta::assert_snapshot!("secured", rendered("secured", &SECURED));
}

#[test]
fn open_services_without_issuers_do_not_look_at_tokens() {
    for name in ["plain", "full", "grpc", "open", "calls", "secured"] {
        // An issuer of users alone changes nothing: no pod is replaced by an upgrade.
        let flags = ["--auth", "open", "--auth-issuers", "[]"];
        let open = rendered(name, &[&flags[..], &SECURED[2..]].concat());
        assert_eq!(open, rendered(name, &[]));
        assert!(!open.contains("AUTH") && !open.contains("hedgerow-trust"), "{open}");
    }
}

#[test]
fn migrations_are_the_same_with_authentication() {
    let job = |text: String| {
        let mut documents = text.split("---\n").map(str::to_owned);
        documents.find(|document| document.contains("kind: Job")).expect("a Job")
    };
    assert_eq!(job(rendered("full", &SECURED)), job(rendered("full", &[])));
}

#[test]
fn every_document_is_rendered_and_empty_ones_are_skipped() {
    let document = |name: &str| {
        format!(
            "---\napiVersion: hedgerow.dev/v1alpha1\nkind: Microservice\n\
             metadata: {{name: {name}}}\nspec: {{image: 'orders:1.0'}}\n"
        )
    };
    let output = operator(&["render", "-f", "-"], &(document("one") + "---\n" + &document("two") + "---\n"));
    let text = String::from_utf8(output.stdout).expect("text");
    let deployments = text.matches("kind: Deployment\nmetadata:\n").count();
    assert_eq!(deployments, 2, "{text}");
}

#[test]
fn error_names_document_object_and_field() {
    let input = "apiVersion: hedgerow.dev/v1alpha1\nkind: Microservice\nmetadata: {name: orders}\n\
                 spec: {image: 'orders:1.0', color: blue, env: [{name: A, valeu: x}], scaling: {min: 0}}\n";
    let here = "operator: standard input: document 1: Microservice orders: ";
    let errors = error(input);
    assert!(errors.starts_with(here), "{errors}");
    for part in ["spec: unknown field color", "spec.env[0]: unknown field valeu", "spec.scaling.min: 0 is less than"] {
        assert!(errors.contains(part), "{errors}");
    }
    let rule = "spec.scaling: scaling.min (default 2) must not be greater than scaling.max (default 10)";
    let input = "apiVersion: hedgerow.dev/v1alpha1\nkind: Microservice\nmetadata: {name: orders}\n\
                 spec: {image: 'orders:1.0', scaling: {min: 20}}\n";
    assert_eq!(error(input), format!("{here}{rule}\n"));
}

#[test]
fn a_file_with_anything_but_microservices_is_refused() {
    let error = |input| error(input).trim_start_matches("operator: standard input: ").to_owned();
    assert_eq!(
        error("---\n---\nkind: Pod\napiVersion: v1\n"),
        "document 1: not a Microservice of hedgerow.dev/v1alpha1\n"
    );
    assert!(error("a: b: c").starts_with("not YAML: "));
    assert_eq!(error(""), "the file is empty\n");
}

#[test]
fn invalid_arguments_are_reported_in_one_line() {
    let usage = |arguments: &[&str]| {
        let output = operator(arguments, "");
        assert_eq!(output.status.code(), Some(2));
        String::from_utf8(output.stderr).expect("text")
    };
    assert_eq!(usage(&["render"]), "operator: the following required arguments were not provided: --file <FILE>\n");
    let issuers = |text: &str| usage(&["render", "-f", "x", "--auth-issuers", text]);
    assert!(issuers("[{}]").contains("missing field `issuer`"), "{}", issuers("[{}]"));
    assert!(issuers(r#"[{"issuer": "x"}]"#).contains("jwks_url is needed"));
    assert!(usage(&["render", "-f", "x", "--auth-issuer", "users"]).contains("--auth-issuer-url"));
    assert_eq!(usage(&["rendre"]).lines().count(), 1);
}
