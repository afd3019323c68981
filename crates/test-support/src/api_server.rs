//! An API server in memory, for tests of what a client of it does when one misbehaves. The rules of the real one are
//! tested against a real one.

mod watch;

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard},
};

use axum::body::Body;
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use kube::{Client, client};
use serde_json::{Value, json};

use self::watch::History;

/// What it holds, and what it was asked.
#[derive(Clone, Default)]
pub struct ApiServer(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Value>,
    history: History,
    requests: Vec<(Method, String)>,
    refusals: Vec<(Method, String, StatusCode, String)>,
    /// Every number of pods a Deployment ever had.
    replicas: Vec<i64>,
}

impl ApiServer {
    /// A client of it.
    #[must_use]
    pub fn client(&self) -> Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<client::Body>| {
            let server = server.clone();
            async move { Ok::<_, Infallible>(server.answer(request).await) }
        });
        Client::new(service, "default")
    }

    /// Answers requests of this method whose path and query contain `part` with an error.
    pub fn refuse(&self, method: Method, part: &str, status: StatusCode, message: &str) {
        self.state().refusals.push((method, part.to_owned(), status, message.to_owned()));
    }

    /// Answers all requests again.
    pub fn stop_refusing(&self) {
        self.state().refusals.clear();
    }

    /// Ends all watches, as a connection that breaks does.
    pub fn break_watches(&self) {
        self.state().history.break_watches();
    }

    /// Ends all watches without an error, and those that are begun from now on at once.
    pub fn end_watches(&self) {
        self.state().history.end_watches(true);
    }

    /// Lets watches go on again.
    pub fn stop_ending_watches(&self) {
        self.state().history.end_watches(false);
    }

    /// Forgets what happened: a watch can no longer go on from there.
    pub fn forget_history(&self) {
        self.state().history.forget();
    }

    /// Makes or replaces the object of a path.
    pub fn put(&self, path: &str, object: Value) {
        self.state().store(path, object);
    }

    /// The object of a path.
    #[must_use]
    pub fn get(&self, path: &str) -> Option<Value> {
        self.state().objects.get(path).cloned()
    }

    /// Deletes the object of a path.
    pub fn delete(&self, path: &str) {
        self.state().delete(path);
    }

    /// The requests since the last call, with their queries.
    #[must_use]
    pub fn take_requests(&self) -> Vec<(Method, String)> {
        std::mem::take(&mut self.state().requests)
    }

    /// Those of them that write anything.
    #[must_use]
    pub fn take_writes(&self) -> Vec<(Method, String)> {
        self.take_requests().into_iter().filter(|(method, _)| method != Method::GET).collect()
    }

    /// Every number of pods a Deployment ever had.
    #[must_use]
    pub fn replicas(&self) -> Vec<i64> {
        self.state().replicas.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no test panics while it holds this")
    }

    async fn answer(&self, request: Request<client::Body>) -> Response<Body> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.expect("a body").to_bytes();
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let (path, query) = (head.uri.path(), head.uri.query().unwrap_or(""));
        let mut state = self.state();
        let (status, body) = match state.refusal(&head.method, path, query) {
            Some(refusal) => refusal,
            None if parameter(query, "watch") == Some("true") => {
                let since = parameter(query, "resourceVersion").and_then(|version| version.parse().ok());
                return Response::new(Body::from_stream(state.history.watch(path, since.unwrap_or_default())));
            }
            None => state.answer(&head.method, path, query, body),
        };
        let response = Response::builder().status(status).header("content-type", "application/json");
        response.body(Body::from(body.to_string())).expect("a response")
    }
}

impl State {
    /// Notes the request, and says whether it is refused.
    fn refusal(&mut self, method: &Method, path: &str, query: &str) -> Option<(StatusCode, Value)> {
        let target = if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") };
        let mut refusals = self.refusals.iter();
        let refusal = refusals.find(|(refused, part, ..)| refused == method && target.contains(part.as_str()));
        let refusal = refusal.map(|(.., status, message)| error(*status, message));
        self.requests.push((method.clone(), target));
        refusal
    }

    fn answer(&mut self, method: &Method, path: &str, query: &str, body: Value) -> (StatusCode, Value) {
        let path = path.trim_end_matches("/status");
        match *method {
            Method::GET if is_collection(path) => (StatusCode::OK, self.list(path, query)),
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
                self.delete(path);
                (StatusCode::OK, json!({ "kind": "Status", "apiVersion": "v1", "status": "Success", "code": 200 }))
            }
            _ => error(StatusCode::METHOD_NOT_ALLOWED, "no such method"),
        }
    }

    /// A page of a collection: its size is the client's wish, what the next begins with is how many went before.
    fn list(&self, path: &str, query: &str) -> Value {
        let number = |name| parameter(query, name).and_then(|text| text.parse::<usize>().ok());
        let begin = number("continue").unwrap_or(0);
        let size = number("limit").unwrap_or(usize::MAX);
        let items: Vec<_> = self.objects.iter().filter(|(key, _)| collection(key) == path).collect();
        let page: Vec<_> = items.iter().skip(begin).take(size).map(|(_, object)| (*object).clone()).collect();
        let end = begin + page.len();
        let more = (end < items.len()).then(|| end.to_string());
        let metadata = json!({ "resourceVersion": self.history.version().to_string(), "continue": more });
        json!({ "apiVersion": "v1", "kind": "List", "metadata": metadata, "items": page })
    }

    fn delete(&mut self, path: &str) {
        if let Some(object) = self.objects.remove(path) {
            self.history.add("DELETED", collection(path), object);
        }
    }

    fn store(&mut self, path: &str, mut object: Value) -> Value {
        let version = self.history.version() + 1;
        object["metadata"]["resourceVersion"] = version.to_string().into();
        if object["metadata"]["uid"].is_null() {
            object["metadata"]["uid"] = format!("uid-{version}").into();
        }
        if path.contains("/deployments/") {
            self.replicas.push(object["spec"]["replicas"].as_i64().unwrap_or(1));
        }
        let known = self.objects.insert(path.to_owned(), object.clone());
        let kind = if known.is_some() { "MODIFIED" } else { "ADDED" };
        self.history.add(kind, collection(path), object)
    }
}

/// As server-side apply does: a field whose only writer no longer mentions it is gone.
fn own_replicas(object: &mut Value, applied: &Value, query: &str) {
    let Some(manager) = parameter(query, "fieldManager") else { return };
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

fn parameter<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query.split('&').find_map(|part| part.strip_prefix(name)?.strip_prefix('='))
}

/// The path of the collection that an object is in.
fn collection(path: &str) -> &str {
    path.rsplit_once('/').map_or(path, |(collection, _)| collection)
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
