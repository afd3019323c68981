//! One case of a table, and short ways to write it.

use serde_json::{Value, json};

/// An object to create, or a change to a stored object.
pub struct Case {
    /// The object's name.
    pub name: &'static str,
    /// The spec before the change; `None` for a new object.
    pub old: Option<Value>,
    /// The spec to create or to change to.
    pub spec: Value,
    /// A part of the expected error; `None` if the object is accepted.
    pub refusal: Option<&'static str>,
}

impl Case {
    /// The object before the change, if any, and the object to create or to change it to.
    pub fn objects(&self) -> (Option<Value>, Value) {
        (self.old.as_ref().map(|spec| object(self.name, spec)), object(self.name, &self.spec))
    }
}

fn object(name: &str, spec: &Value) -> Value {
    let mut whole = json!({ "image": "registry.example/orders:1.0" });
    for (field, value) in spec.as_object().expect("a spec is an object") {
        whole[field] = value.clone();
    }
    json!({ "apiVersion": "hedgerow.dev/v1alpha1", "kind": "Microservice", "metadata": { "name": name }, "spec": whole })
}

pub(super) fn accepted(spec: Value) -> Case {
    Case { name: "orders", old: None, spec, refusal: None }
}

pub(super) fn refused(spec: Value, refusal: &'static str) -> Case {
    Case { refusal: Some(refusal), ..accepted(spec) }
}

pub(super) fn change(old: Value, spec: Value) -> Case {
    Case { old: Some(old), ..accepted(spec) }
}

pub(super) fn refused_change(old: Value, spec: Value, refusal: &'static str) -> Case {
    Case { refusal: Some(refusal), ..change(old, spec) }
}

pub(super) fn named(name: &'static str, spec: Value) -> Case {
    Case { name, ..accepted(spec) }
}

pub(super) fn refused_name(name: &'static str, spec: Value, refusal: &'static str) -> Case {
    Case { refusal: Some(refusal), ..named(name, spec) }
}
