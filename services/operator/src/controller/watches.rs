//! The watches that trigger reconciles.

use std::{
    collections::{HashMap, HashSet},
    iter,
    sync::Arc,
    time::Duration,
};

use futures_util::{Stream, StreamExt, stream};
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, ResourceExt,
    api::{ApiResource, DynamicObject, PartialObjectMeta},
    runtime::{
        WatchStreamExt,
        reflector::{ObjectRef, store::Writer},
        watcher,
    },
};
use tokio::{sync::watch, time};

use super::{
    children,
    context::Context,
    digest::digest,
    error::with_timeout,
    known_objects::{Change, KnownObjects},
    known_secrets::SecretChange,
    secret_references,
};
use crate::manifests::{MANAGED_BY, pod_monitor};
use api::Microservice;

/// The number of children that a page of a list has. Each has a long record of who wrote which field, which is dropped
/// once the page has been read.
const PAGE_SIZE: u32 = 100;

/// The wait after discovery has failed.
const DISCOVERY_RETRY: Duration = Duration::from_secs(5);

/// What `kubectl apply` remembers in each object.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

type Trigger = ObjectRef<Microservice>;

/// Triggers for objects whose specification changed, and for the other objects that the change concerns. Of the changes
/// of a status, only those by someone else trigger anything.
pub(crate) fn objects(
    context: &Arc<Context>,
    writer: Writer<Microservice>,
) -> impl Stream<Item = Trigger> + Send + use<> {
    let context = context.clone();
    let api: Api<Microservice> = Api::namespaced(context.client.clone(), &context.settings.namespace);
    let mut known = KnownObjects::default();
    watcher(api, watcher::Config::default())
        .default_backoff()
        .modify(|object| {
            object.metadata.managed_fields = None;
            object.annotations_mut().remove(LAST_APPLIED);
        })
        .reflect(writer)
        .flat_map(move |event| {
            let mut deleted = Vec::new();
            let updated = match event {
                // The store has the listed objects by now. Nothing else reports what was deleted before the list.
                Ok(watcher::Event::InitDone) => {
                    let mut all = context.objects.state();
                    all.sort_by_key(|object| object.name_any());
                    deleted = known.retain(&all.iter().map(|object| object.name_any()).collect());
                    all
                }
                Ok(watcher::Event::Apply(object)) => vec![Arc::new(object)],
                Ok(watcher::Event::Delete(object)) => {
                    deleted.extend(known.remove(&object.name_any()));
                    Vec::new()
                }
                Ok(watcher::Event::Init | watcher::Event::InitApply(_)) | Err(_) => Vec::new(),
            };
            // Of an object that was deleted and made again in an outage, only the second one is reported.
            deleted.extend(updated.iter().filter_map(|object| known.remove_predecessor(object)));
            for deletion in &deleted {
                context.forget(&deletion.change.name, deletion.uid.as_deref().unwrap_or_default());
            }
            let overwritten = updated.iter().filter(|object| context.own_statuses.is_overwritten(object));
            let overwritten: Vec<_> = overwritten.map(|object| ObjectRef::from_obj(&**object)).collect();
            let deleted = deleted.into_iter().map(|deletion| deletion.change);
            let changes: Vec<_> = deleted.chain(updated.iter().filter_map(|object| known.update(object))).collect();
            stream::iter(affected(&context, &changes).into_iter().chain(overwritten).collect::<Vec<_>>())
        })
}

/// The objects that changed, each followed by the other objects that the change concerns.
fn affected(context: &Context, changes: &[Change]) -> Vec<Trigger> {
    let all = if changes.is_empty() { Vec::new() } else { context.objects.state() };
    let trigger = |name: &str| ObjectRef::new(name).within(&context.settings.namespace);
    let of_change = |change: &Change| {
        let others = change.affected(&all).map(|other| trigger(&other.name_any())).collect::<Vec<_>>();
        iter::once(trigger(&change.name)).chain(others)
    };
    changes.iter().flat_map(of_change).collect()
}

/// Triggers for the owners of children that changed.
pub(crate) fn children(context: &Arc<Context>) -> impl Stream<Item = Trigger> + Send + use<> {
    stream::select_all(children::kinds().map(|kind| changes(context.clone(), kind).boxed()))
}

/// Triggers for the objects whose credentials were changed or deleted, for those of a database server whose Secret was
/// changed, and for those whose variables name a Secret that got or lost the label of a database server. An `Api` of `PartialObjectMeta` transfers only metadata.
pub(crate) fn secrets(context: &Arc<Context>) -> impl Stream<Item = Trigger> + Send + use<> {
    let context = context.clone();
    let api: Api<PartialObjectMeta<Secret>> = Api::namespaced(context.client.clone(), &context.settings.namespace);
    let mut listed = HashSet::new();
    watcher(api, watcher::Config::default()).default_backoff().flat_map(move |event| {
        let known = &context.secrets.known;
        let changes = match event {
            Ok(watcher::Event::Init) => {
                listed.clear();
                Vec::new()
            }
            Ok(watcher::Event::InitApply(secret)) => {
                listed.insert(secret.name_any());
                vec![known.report(&secret.metadata)]
            }
            // Nothing else reports what was deleted before the list.
            Ok(watcher::Event::InitDone) => known.retain(&listed),
            Ok(watcher::Event::Apply(secret)) => vec![known.report(&secret.metadata)],
            Ok(watcher::Event::Delete(secret)) => vec![known.remove(&secret.name_any())],
            Err(_) => Vec::new(),
        };
        stream::iter(changes.iter().flat_map(|change| concerned(&context, change)).collect::<Vec<_>>())
    })
}

/// The objects that a change of a Secret concerns.
fn concerned(context: &Context, change: &SecretChange) -> Vec<Trigger> {
    let owner = change.credentials_of().map(|object| ObjectRef::new(object).within(&context.settings.namespace));
    let mut concerned: Vec<Trigger> = owner.into_iter().collect();
    let objects = context.objects.state();
    if change.is_changed() {
        let default = &context.settings.database_server;
        let is_on = |object: &&Arc<Microservice>| {
            let database = object.spec.database.as_ref();
            database.is_some_and(|database| *database.server.as_ref().unwrap_or(default) == change.name)
        };
        concerned.extend(objects.iter().filter(is_on).map(|object| ObjectRef::from_obj(&**object)));
    }
    if change.is_relabeled() {
        let naming = objects.iter().filter(|object| secret_references::names(object).any(|name| name == change.name));
        concerned.extend(naming.map(|object| ObjectRef::from_obj(&**object)));
    }
    concerned
}

/// Triggers for the owners of `PodMonitor`s that changed, and for every object when that kind is installed or removed.
pub(crate) fn pod_monitors(
    context: &Arc<Context>,
    found: watch::Sender<bool>,
) -> impl Stream<Item = Trigger> + Send + use<> {
    let (watching, mut known) = (context.clone(), context.pod_monitors.clone());
    // Starts once the kind is installed. If it is removed again, the watch fails, and retries with backoff.
    let watched = stream::once(async move { known.wait_for(|found| *found).await.map(drop) })
        .flat_map(move |_| changes(watching.clone(), pod_monitor::resource()));
    let discovering = context.clone();
    let discovered = stream::unfold((found, discovering), |(found, context)| async {
        let served = is_served(&context, &pod_monitor::resource()).await;
        if let Some(served) = served
            && found.send_replace(served) != served
        {
            let objects = context.objects.state();
            let all: Vec<_> = objects.iter().map(|object| ObjectRef::from_obj(&**object)).collect();
            return Some((stream::iter(all), (found, context)));
        }
        let pause = if served.is_some() { context.settings.resync } else { DISCOVERY_RETRY };
        let _ = time::timeout(pause, context.pod_monitors_lost.notified()).await;
        Some((stream::iter(Vec::new()), (found, context)))
    });
    stream::select(watched, discovered.flatten())
}

/// Records every change of a kind of child. One that concerns a reconcile triggers the owner of the child, and its
/// former owner if it has changed.
fn changes(context: Arc<Context>, kind: ApiResource) -> impl Stream<Item = Trigger> + Send {
    let api: Api<DynamicObject> = Api::namespaced_with(context.client.clone(), &context.settings.namespace, &kind);
    let mut listed = HashSet::new();
    let mut digests: HashMap<String, u64> = HashMap::new();
    let config = watcher::Config::default().labels(MANAGED_BY).page_size(PAGE_SIZE);
    watcher(api, config).default_backoff().flat_map(move |event| {
        let owners = match event {
            Ok(watcher::Event::Init) => {
                listed.clear();
                Vec::new()
            }
            Ok(watcher::Event::InitApply(object)) => {
                listed.insert(object.name_any());
                observe(&context, &kind, &object, &mut digests)
            }
            Ok(watcher::Event::InitDone) => {
                digests.retain(|name, _| listed.contains(name));
                context.observed.retain(&kind.kind, &listed);
                context.listed.send_if_modified(|kinds| kinds.insert(kind.kind.clone()));
                // Nothing else reports what was deleted before the list.
                context.children.retain(&kind, &listed)
            }
            Ok(watcher::Event::Apply(object)) => observe(&context, &kind, &object, &mut digests),
            Ok(watcher::Event::Delete(object)) => {
                digests.remove(&object.name_any());
                context.observed.forget(&kind.kind, &object.name_any());
                context.children.observe(&kind, &object, false)
            }
            Err(_) => {
                if kind.kind == pod_monitor::resource().kind && *context.pod_monitors.borrow() {
                    context.pod_monitors_lost.notify_one();
                }
                Vec::new()
            }
        };
        let trigger = |owner: String| ObjectRef::new(&owner).within(&context.settings.namespace);
        stream::iter(owners.into_iter().map(trigger).collect::<Vec<_>>())
    })
}

/// Records a child. Returns the names of the objects that its change concerns: none if the operator wrote it itself,
/// since that reconcile has seen the result.
fn observe(
    context: &Context,
    kind: &ApiResource,
    object: &DynamicObject,
    digests: &mut HashMap<String, u64>,
) -> Vec<String> {
    let name = object.name_any();
    let version = object.resource_version().and_then(|version| version.parse().ok());
    let is_own_write = version.is_some() && version <= context.children.version(&kind.kind, &name);
    let owners = context.children.observe(kind, object, true);
    context.observed.observe(&kind.kind, object);
    let digest = digest(kind, object);
    let is_unchanged = digests.insert(name, digest) == Some(digest);
    if is_own_write || is_unchanged { Vec::new() } else { owners }
}

/// Whether the API server serves a kind, or `None` if the request failed.
async fn is_served(context: &Context, kind: &ApiResource) -> Option<bool> {
    let request = context.client.list_api_group_resources(&kind.api_version);
    match with_timeout("discover a kind", request).await {
        Ok(list) => Some(list.resources.iter().any(|resource| resource.kind == kind.kind)),
        Err(error) if error.is_gone() => Some(false),
        Err(_) => None,
    }
}
