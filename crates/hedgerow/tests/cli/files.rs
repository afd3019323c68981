//! The files that describe the services.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::sandbox::{Sandbox, Up, failure, open_to_all};

/// A service that is run by a command, in its own folder.
fn add_service(sandbox: &Sandbox, folder: &str, name: &str, spec: &str) {
    let path = sandbox.path(folder);
    fs::create_dir_all(&path).unwrap();
    open_to_all(&path);
    fs::write(path.join("run me.py"), include_str!("stand_in.py")).unwrap();
    let text = format!(
        "apiVersion: hedgerow.dev/v1alpha1\nkind: Microservice\nmetadata:\n  name: {name}\n  annotations:\n    \
         hedgerow.dev/command: python3 'run me.py'\n    hedgerow.dev/try: GET /{name}\nspec:\n  image: r/x:1\n{spec}"
    );
    fs::write(path.join("microservice.yaml"), text).unwrap();
}

fn up_command(sandbox: &Sandbox, arguments: &[&str], names: &[&str]) -> Command {
    let mut command = sandbox.up_command();
    command.args(arguments);
    for name in names {
        let address = |port| sandbox.address(port);
        command.arg(format!("--{name}-addr={}", address(8085))).arg(format!("--{name}-admin-addr={}", address(9095)));
    }
    command
}

#[test]
fn a_file_describes_a_service_in_any_language() {
    let sandbox = Sandbox::new();
    let spec = "  calls: [inventory]\n  database: {name: my_greetings}\n  env: [{name: COLOR, value: red}]\n";
    add_service(&sandbox, "elsewhere/greeter", "greeter", spec);
    let up = Up::run_until(&mut up_command(&sandbox, &["-f", "elsewhere/greeter"], &["greeter"]), "Try:");
    // It has no route, and there is no gateway.
    assert!(up.wait_for_line("curl").ends_with(&format!("http://{}/greeter", sandbox.address(8085))));
    let environment = fs::read_to_string(sandbox.path("elsewhere/greeter/run me.json")).unwrap();
    for variable in [r#""COLOR": "red""#, r#""DATABASE_URL": "postgres://my_greetings:"#] {
        assert!(environment.contains(variable), "{variable}: {environment}");
    }
    assert_eq!(sandbox.sql("my_greetings", "SELECT count(*) FROM starts"), "1");
}

#[test]
fn files_of_the_folder_services_are_the_default() {
    let sandbox = Sandbox::new();
    add_service(&sandbox, "services/greeter", "greeter", "");
    let _up = Up::run(&mut up_command(&sandbox, &[], &["greeter"]));
    assert!(sandbox.noted("services/greeter/run me", "serving").len() == 1);
    assert!(sandbox.noted("users", "serving").is_empty());
}

#[test]
fn several_folders_and_files_are_combined() {
    let sandbox = Sandbox::new();
    add_service(&sandbox, "one/greeter", "greeter", "  route: {paths: [/greetings]}\n");
    fs::create_dir(sandbox.path("two")).unwrap();
    let gateway =
        "{apiVersion: hedgerow.dev/v1alpha1, kind: Microservice, metadata: {name: gateway}, spec: {image: 'r/x:1'}}";
    fs::write(sandbox.path("two/any.yaml"), gateway).unwrap();
    let up = Up::run_until(&mut up_command(&sandbox, &["-f", "one", "--file=two/any.yaml"], &["greeter"]), "Try:");
    assert!(up.wait_for_line("curl").ends_with(&format!("http://{}/greeter", sandbox.address(8080))));
    let routes = format!("greeter:/greetings=http://{}", sandbox.address(8085));
    assert_eq!(sandbox.given("gateway", "ROUTES").unwrap(), routes);
}

#[test]
fn errors_in_a_file_are_reported() {
    let sandbox = Sandbox::new();
    let said = |arguments: &[&str]| failure(sandbox.up_command().args(arguments));
    assert_eq!(said(&["-f", "none"]), "hedgerow: cannot read none: No such file or directory (os error 2)\n");
    fs::create_dir(sandbox.path("empty")).unwrap();
    assert_eq!(said(&["-f", "empty"]), "hedgerow: no microservice.yaml in empty or its subfolders\n");

    add_service(&sandbox, "bad", "greeter", "  color: red\n");
    let expected = "hedgerow: bad/microservice.yaml: document 1: Microservice greeter: spec: unknown field color";
    assert!(said(&["-f", "bad"]).starts_with(expected), "{}", said(&["-f", "bad"]));

    add_service(&sandbox, "away", "greeter", "");
    let file = sandbox.path("away/microservice.yaml");
    let text = fs::read_to_string(&file).unwrap().replace("python3", "no-such-program");
    fs::write(&file, text).unwrap();
    let expected = "hedgerow: away/microservice.yaml: Microservice greeter: program no-such-program not found: install it, or \
                    change hedgerow.dev/command\n";
    assert_eq!(said(&["-f", "away"]), expected);
}

#[test]
fn a_new_service_is_written_once_and_runs() {
    let sandbox = Sandbox::new();
    let new = |arguments: &[&str]| {
        let mut command = Command::new(sandbox.path("hedgerow"));
        command.arg("new").args(arguments).current_dir(sandbox.path(""));
        command
    };
    let refused = failure(&mut new(&["notes", "--python"]));
    assert!(refused.contains("run this from the root of the workspace"), "{refused}");
    fs::create_dir(sandbox.path("services")).unwrap();
    assert!(new(&["notes", "--python"]).output().unwrap().status.success());
    let up = Up::run_until(&mut up_command(&sandbox, &[], &["notes"]), "Try:");
    drop(up);

    let said = failure(&mut new(&["notes"]));
    assert!(said.starts_with("hedgerow: services/notes already exists"), "{said}");
    assert!(new(&["orders"]).output().unwrap().status.success());
    for file in
        ["services/orders/Cargo.toml", "services/orders/src/routes/create.rs", "migrations/orders/0001_orders.sql"]
    {
        assert!(Path::new(&sandbox.path(file)).is_file(), "{file}");
    }
}
