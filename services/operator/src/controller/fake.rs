//! An API server in memory, for tests of what the controller does when one misbehaves. The rules of the real one are
//! tested against a real one.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
};

use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use kube::{Client, client::Body};
use serde_json::{Value, json};

/// What it holds, and what it was asked.
#[derive(Clone, Default)]
pub(crate) struct ApiServer(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Value>,
    requests: Vec<(Method, String)>,
    refusals: Vec<(Method, String, StatusCode, String)>,
    /// Every number of pods a Deployment ever had.
    replicas: Vec<i64>,
    version: u64,
}

impl ApiServer {
    pub(crate) fn client(&self) -> Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let server = server.clone();
            async move { Ok::<_, std::convert::Infallible>(server.answer(request).await) }
        });
        Client::new(service, "default")
    }

    /// Answers requests of this method whose path contains `path` with an error.
    pub(crate) fn refuse(&self, method: Method, path: &str, status: StatusCode, message: &str) {
        self.state().refusals.push((method, path.to_owned(), status, message.to_owned()));
    }

    pub(crate) fn stop_refusing(&self) {
        self.state().refusals.clear();
    }

    pub(crate) fn put(&self, path: &str, object: Value) {
        self.state().store(path, object);
    }

    pub(crate) fn get(&self, path: &str) -> Option<Value> {
        self.state().objects.get(path).cloned()
    }

    pub(crate) fn delete(&self, path: &str) {
        self.state().objects.remove(path);
    }

    /// The requests since the last call that write anything.
    pub(crate) fn take_writes(&self) -> Vec<(Method, String)> {
        let requests = std::mem::take(&mut self.state().requests);
        requests.into_iter().filter(|(method, _)| method != Method::GET).collect()
    }

    pub(crate) fn replicas(&self) -> Vec<i64> {
        self.state().replicas.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no test panics while it holds this")
    }

    async fn answer(&self, request: Request<Body>) -> Response<Body> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.expect("a body").to_bytes();
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let (status, body) = self.state().answer(&head.method, head.uri.path(), head.uri.query().unwrap_or(""), body);
        let response = Response::builder().status(status).header("content-type", "application/json");
        response.body(Body::from(body.to_string().into_bytes())).expect("a response")
    }
}

impl State {
    fn answer(&mut self, method: &Method, path: &str, query: &str, body: Value) -> (StatusCode, Value) {
        self.requests.push((method.clone(), path.to_owned()));
        let refusal =
            self.refusals.iter().find(|(refused, part, ..)| refused == method && path.contains(part.as_str()));
        if let Some((.., status, message)) = refusal {
            return error(*status, message);
        }
        let path = path.trim_end_matches("/status");
        match *method {
            Method::GET if is_collection(path) => {
                let items = self.objects.iter().filter(|(key, _)| key.starts_with(&format!("{path}/")));
                let items: Vec<_> = items.map(|(_, object)| object.clone()).collect();
                (StatusCode::OK, json!({ "apiVersion": "v1", "kind": "List", "metadata": {}, "items": items }))
            }
            Method::GET => match self.objects.get(path) {
                Some(object) => (StatusCode::OK, object.clone()),
                None => error(StatusCode::NOT_FOUND, "not found"),
            },
            Method::POST => {
                let path = format!("{path}/{}", body["metadata"]["name"].as_str().unwrap_or("generated"));
                if self.objects.contains_key(&path) {
                    return error(StatusCode::CONFLICT, "already exists");
                }
                (StatusCode::CREATED, self.store(&path, body))
            }
            Method::PATCH => {
                let mut object = self.objects.get(path).cloned().unwrap_or_default();
                own_replicas(&mut object, &body, query);
                merge(&mut object, body);
                (StatusCode::OK, self.store(path, object))
            }
            Method::DELETE => {
                self.objects.remove(path);
                (StatusCode::OK, json!({ "kind": "Status", "apiVersion": "v1", "status": "Success", "code": 200 }))
            }
            _ => error(StatusCode::METHOD_NOT_ALLOWED, "no such method"),
        }
    }

    fn store(&mut self, path: &str, mut object: Value) -> Value {
        self.version += 1;
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        if object["metadata"]["uid"].is_null() {
            object["metadata"]["uid"] = format!("uid-{}", self.version).into();
        }
        if path.contains("/deployments/") {
            self.replicas.push(object["spec"]["replicas"].as_i64().unwrap_or(1));
        }
        self.objects.insert(path.to_owned(), object.clone());
        object
    }
}

/// As server-side apply does: a field whose only writer no longer mentions it is gone.
fn own_replicas(object: &mut Value, applied: &Value, query: &str) {
    let Some(manager) = query.split('&').find_map(|part| part.strip_prefix("fieldManager=")) else { return };
    if applied["kind"] != "Deployment" {
        return;
    }
    let mut owners: Vec<Value> = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    owners.retain(|owner| owner["manager"] != manager);
    if applied["spec"]["replicas"].is_null() {
        if owners.is_empty() && object["spec"].is_object() {
            object["spec"]["replicas"] = 1.into();
        }
    } else {
        owners.push(json!({ "manager": manager, "fieldsV1": { "f:spec": { "f:replicas": {} } } }));
    }
    object["metadata"]["managedFields"] = owners.into();
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

/// `/api/v1/namespaces/NS/KIND` or `/apis/GROUP/VERSION/namespaces/NS/KIND`, without a name.
fn is_collection(path: &str) -> bool {
    path.split('/').skip_while(|part| *part != "namespaces").count() == 3
}

fn error(status: StatusCode, message: &str) -> (StatusCode, Value) {
    let reason = status.canonical_reason().unwrap_or_default().replace(' ', "");
    let code = status.as_u16();
    let body = json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "reason": reason, "code": code });
    (status, body)
}
