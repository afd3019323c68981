//! `operator render`: the children as a reviewer sees them, and what it says of a file that it cannot render.

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
    process.stdin.take().expect("a pipe").write_all(input.as_bytes()).expect("it reads");
    process.wait_with_output().expect("it ends")
}

fn rendered(name: &str, more: &[&str]) -> String {
    let file = format!("{}/tests/render/{name}.yaml", env!("CARGO_MANIFEST_DIR"));
    let output = operator(&[&["render", "--file", &file], more].concat(), "");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// What it says of standard input that it refuses.
fn complaint(input: &str) -> String {
    let output = operator(&["render", "-f", "-"], input);
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty(), "half a result is none");
    String::from_utf8(output.stderr).expect("text")
}

#[test]
fn plain() {
    insta::assert_snapshot!("plain", rendered("plain", &[]));
}

#[test]
fn full() {
    let cluster = ["--pod-monitors", "--scrape-namespace", "monitoring", "--scrape-namespace", "metrics"];
    insta::assert_snapshot!("full", rendered("full", &cluster));
}

#[test]
fn a_single_pod_has_no_autoscaler_and_no_disruption_budget() {
    insta::assert_snapshot!("single", rendered("single", &[]));
}

#[test]
fn grpc() {
    insta::assert_snapshot!("grpc", rendered("grpc", &[]));
}

#[test]
fn open_to_all() {
    insta::assert_snapshot!("open", rendered("open", &[]));
}

#[test]
fn every_document_is_rendered_and_empty_ones_are_passed_over() {
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
fn a_complaint_names_document_object_and_field() {
    let input = "apiVersion: hedgerow.dev/v1alpha1\nkind: Microservice\nmetadata: {name: orders}\n\
                 spec: {image: 'orders:1.0', colour: blue, env: [{name: A, valeu: x}], scaling: {min: 0}}\n";
    let here = "operator: standard input: document 1: Microservice orders: ";
    let complaints = complaint(input);
    assert!(complaints.starts_with(here), "{complaints}");
    for part in ["spec: unknown field colour", "spec.env[0]: unknown field valeu", "spec.scaling.min: 0 is less than"] {
        assert!(complaints.contains(part), "{complaints}");
    }
    let rule = "spec.scaling: scaling.min (2 where left out) must not be greater than scaling.max (10 where left out)";
    let input = "apiVersion: hedgerow.dev/v1alpha1\nkind: Microservice\nmetadata: {name: orders}\n\
                 spec: {image: 'orders:1.0', scaling: {min: 20}}\n";
    assert_eq!(complaint(input), format!("{here}{rule}\n"));
}

#[test]
fn what_is_no_microservice_is_refused() {
    let complaint = |input| complaint(input).trim_start_matches("operator: standard input").to_owned();
    assert_eq!(
        complaint("---\n---\nkind: Pod\napiVersion: v1\n"),
        ": document 1: not a Microservice of hedgerow.dev/v1alpha1\n"
    );
    assert!(complaint("a: b: c").starts_with(" is not YAML: "));
    assert_eq!(complaint(""), " is empty\n");
}

#[test]
fn wrong_arguments_are_said_in_one_line() {
    let usage = |arguments: &[&str]| {
        let output = operator(arguments, "");
        assert_eq!(output.status.code(), Some(2));
        String::from_utf8(output.stderr).expect("text")
    };
    assert_eq!(usage(&["render"]), "operator: the following required arguments were not provided: --file <FILE>\n");
    assert_eq!(usage(&["rendre"]).lines().count(), 1);
}
