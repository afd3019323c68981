//! An in-memory API server for tests of clients against a server that fails. Rules of the real API server are tested
//! against a real one.

mod watch;

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard},
};

use axum::body::Body;
use http::{HeaderMap, Method, Request, Response, StatusCode, header::ACCEPT};
use http_body_util::BodyExt;
use kube::{Client, client};
use serde_json::{Value, json};

use self::watch::History;

/// An in-memory API server.
#[derive(Clone, Default)]
pub struct ApiServer(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Value>,
    history: History,
    requests: Vec<(Method, String)>,
    refusals: Vec<(Method, String, StatusCode, String)>,
    /// How the paths of collections end whose data may not be listed or watched.
    protected: Vec<String>,
    /// Every replica count that a Deployment ever had.
    replicas: Vec<i64>,
}

impl ApiServer {
    /// Creates a client of this server.
    #[must_use]
    pub fn client(&self) -> Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<client::Body>| {
            let server = server.clone();
            async move { Ok::<_, Infallible>(server.respond(request).await) }
        });
        Client::new(service, "default")
    }

    /// Responds with an error to requests of this method whose path and query contain `part`.
    pub fn refuse(&self, method: Method, part: &str, status: StatusCode, message: &str) {
        self.state().refusals.push((method, part.to_owned(), status, message.to_owned()));
    }

    /// Stops responding with errors.
    pub fn stop_refusing(&self) {
        self.state().refusals.clear();
    }

    /// Refuses to list and watch the objects of a collection, such as `/secrets`, with more than their metadata.
    pub fn refuse_data(&self, collection: &str) {
        self.state().protected.push(collection.to_owned());
    }

    /// Breaks all watches, as a broken connection does.
    pub fn break_watches(&self) {
        self.state().history.break_watches();
    }

    /// Ends all watches without an error, and new ones as soon as they start.
    pub fn end_watches(&self) {
        self.state().history.end_watches(true);
    }

    /// Stops ending watches.
    pub fn stop_ending_watches(&self) {
        self.state().history.end_watches(false);
    }

    /// Discards the history, so that watches cannot resume.
    pub fn forget_history(&self) {
        self.state().history.forget();
    }

    /// Creates or replaces the object at a path.
    pub fn put(&self, path: &str, object: Value) {
        self.state().store(path, object);
    }

    /// The object at a path.
    #[must_use]
    pub fn get(&self, path: &str) -> Option<Value> {
        self.state().objects.get(path).cloned()
    }

    /// The objects of a collection.
    #[must_use]
    pub fn list(&self, path: &str) -> Vec<Value> {
        let state = self.state();
        state.objects.iter().filter(|(key, _)| collection(key) == path).map(|(_, object)| object.clone()).collect()
    }

    /// Deletes the object at a path.
    pub fn delete(&self, path: &str) {
        self.state().delete(path);
    }

    /// Every state that the object at a path ever had, also before it was deleted and created again.
    #[must_use]
    pub fn states(&self, path: &str) -> Vec<Value> {
        let name = path.rsplit_once('/').map(|(_, name)| name);
        let states = self.state().history.states(collection(path));
        states.into_iter().filter(|state| state["metadata"]["name"].as_str() == name).collect()
    }

    /// The requests since the last call, with their queries.
    #[must_use]
    pub fn take_requests(&self) -> Vec<(Method, String)> {
        std::mem::take(&mut self.state().requests)
    }

    /// The write requests since the last call to this or [`take_requests`](Self::take_requests).
    #[must_use]
    pub fn take_writes(&self) -> Vec<(Method, String)> {
        self.take_requests().into_iter().filter(|(method, _)| method != Method::GET).collect()
    }

    /// Every replica count that a Deployment ever had.
    #[must_use]
    pub fn replicas(&self) -> Vec<i64> {
        self.state().replicas.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no thread panics while it holds the lock")
    }

    async fn respond(&self, request: Request<client::Body>) -> Response<Body> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.expect("a body").to_bytes();
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let (path, query) = (head.uri.path(), head.uri.query().unwrap_or(""));
        let metadata_only = asks_for_metadata(&head.headers);
        let mut state = self.state();
        let is_protected = head.method == Method::GET && state.protected.iter().any(|end| path.ends_with(end.as_str()));
        let (status, body) = match state.refusal(&head.method, path, query) {
            Some(refusal) => refusal,
            None if is_protected && !metadata_only => error(StatusCode::FORBIDDEN, "only metadata may be read"),
            None if parameter(query, "watch") == Some("true") => {
                let since = parameter(query, "resourceVersion").and_then(|version| version.parse().ok());
                let events = state.history.watch(path, since.unwrap_or_default(), metadata_only);
                return Response::new(Body::from_stream(events));
            }
            None if metadata_only => {
                let (status, body) = state.respond(&head.method, path, query, body);
                (status, without_data(body))
            }
            None => state.respond(&head.method, path, query, body),
        };
        let response = Response::builder().status(status).header("content-type", "application/json");
        response.body(Body::from(body.to_string())).expect("a response")
    }
}

impl State {
    /// Records the request and returns its error response, if any.
    fn refusal(&mut self, method: &Method, path: &str, query: &str) -> Option<(StatusCode, Value)> {
        let target = if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") };
        let mut refusals = self.refusals.iter();
        let refusal = refusals.find(|(refused, part, ..)| refused == method && target.contains(part.as_str()));
        let refusal = refusal.map(|(.., status, message)| error(*status, message));
        self.requests.push((method.clone(), target));
        refusal
    }

    fn respond(&mut self, method: &Method, path: &str, query: &str, body: Value) -> (StatusCode, Value) {
        let path = path.trim_end_matches("/status");
        match *method {
            Method::GET if is_collection(path) => (StatusCode::OK, self.page(path, query)),
            Method::GET => match self.objects.get(path) {
                Some(object) => (StatusCode::OK, object.clone()),
                None => error(StatusCode::NOT_FOUND, "not found"),
            },
            Method::POST => {
                let path = format!("{path}/{}", body["metadata"]["name"].as_str().unwrap_or("generated"));
                if self.objects.contains_key(&path) {
                    return error(StatusCode::CONFLICT, "already exists");
                }
                (StatusCode::CREATED, self.write(&path, &Value::Null, body, query))
            }
            Method::PUT | Method::PATCH => {
                let before = self.objects.get(path).cloned();
                let version = &body["metadata"]["resourceVersion"];
                match &before {
                    None if method == Method::PUT => return error(StatusCode::NOT_FOUND, "not found"),
                    Some(before) if !version.is_null() && *version != before["metadata"]["resourceVersion"] => {
                        return error(StatusCode::CONFLICT, "the object has been modified");
                    }
                    _ => {}
                }
                let before = before.unwrap_or_default();
                let mut object = body;
                if method == Method::PATCH {
                    let changes = std::mem::replace(&mut object, before.clone());
                    if let Err(failure) = apply(&mut object, changes) {
                        return error(StatusCode::UNPROCESSABLE_ENTITY, &failure);
                    }
                } else {
                    object["metadata"]["uid"] = before["metadata"]["uid"].clone();
                    // Only the subresource changes the status.
                    if let Some(status) = before.get("status") {
                        object["status"] = status.clone();
                    }
                }
                (StatusCode::OK, self.write(path, &before, object, query))
            }
            Method::DELETE => {
                self.delete(path);
                (StatusCode::OK, json!({ "kind": "Status", "apiVersion": "v1", "status": "Success", "code": 200 }))
            }
            _ => error(StatusCode::METHOD_NOT_ALLOWED, "no such method"),
        }
    }

    /// A page of a collection. The continue token is the number of preceding items.
    fn page(&self, path: &str, query: &str) -> Value {
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

    /// Stores what a client wrote, unless it changes nothing. Records the client as a writer, and counts the changes of
    /// the specification.
    fn write(&mut self, path: &str, before: &Value, mut object: Value, query: &str) -> Value {
        if let Some(manager) = parameter(query, "fieldManager") {
            let mut writers = before["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
            if writers.iter().all(|writer| writer["manager"] != manager) {
                writers.push(json!({ "manager": manager }));
            }
            object["metadata"]["managedFields"] = writers.into();
        }
        for field in ["generation", "resourceVersion"] {
            object["metadata"][field] = before["metadata"][field].clone();
        }
        if object == *before {
            return object;
        }
        if object["spec"] != before["spec"] {
            object["metadata"]["generation"] = (before["metadata"]["generation"].as_i64().unwrap_or(0) + 1).into();
        }
        self.store(path, object)
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

/// Applies a merge patch (RFC 7396), or a JSON Patch (RFC 6902) that only tests values and adds members.
fn apply(object: &mut Value, changes: Value) -> Result<(), String> {
    let operations = match changes {
        Value::Array(operations) => operations,
        changes => {
            merge(object, changes);
            return Ok(());
        }
    };
    for operation in operations {
        let path = operation["path"].as_str().unwrap_or_default();
        let (parent, member) = path.rsplit_once('/').unwrap_or_default();
        match operation["op"].as_str() {
            Some("test") if object.pointer(path) == Some(&operation["value"]) => {}
            Some("test") => return Err("the server rejected our request due to an error in our request".to_owned()),
            Some("add") if object.pointer(parent).is_some_and(Value::is_object) => {
                object.pointer_mut(parent).expect("it exists")[member] = operation["value"].clone();
            }
            _ => return Err(format!("not supported: {operation}")),
        }
    }
    Ok(())
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                if value.is_null() {
                    into.remove(&key);
                } else {
                    merge(into.entry(key).or_insert(Value::Null), value);
                }
            }
        }
        (into, from @ Value::Object(_)) => {
            *into = Value::Object(serde_json::Map::new());
            merge(into, from);
        }
        (into, from) => *into = from,
    }
}

/// Whether a client accepts only the metadata of objects.
fn asks_for_metadata(headers: &HeaderMap) -> bool {
    let accepted = headers.get(ACCEPT).and_then(|value| value.to_str().ok());
    accepted.is_some_and(|accepted| accepted.contains("as=PartialObjectMetadata"))
}

/// An object, or a list of objects, with nothing but their metadata.
fn without_data(mut body: Value) -> Value {
    if let Some(items) = body.get_mut("items").and_then(Value::as_array_mut) {
        for item in items {
            *item = metadata_of(item);
        }
        return body;
    }
    if body["kind"] == "Status" { body } else { metadata_of(&body) }
}

fn metadata_of(object: &Value) -> Value {
    json!({ "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": object["metadata"] })
}

fn parameter<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query.split('&').find_map(|part| part.strip_prefix(name)?.strip_prefix('='))
}

/// The path of an object's collection.
fn collection(path: &str) -> &str {
    path.rsplit_once('/').map_or(path, |(collection, _)| collection)
}

/// Whether a path is `/api/v1/namespaces/NS/KIND` or `/apis/GROUP/VERSION/namespaces/NS/KIND`, without a name.
fn is_collection(path: &str) -> bool {
    path.split('/').skip_while(|part| *part != "namespaces").count() == 3
}

fn error(status: StatusCode, message: &str) -> (StatusCode, Value) {
    let reason = status.canonical_reason().unwrap_or_default().replace(' ', "");
    let code = status.as_u16();
    let body = json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "reason": reason, "code": code });
    (status, body)
}
