//! The watches that trigger reconciles.

use std::{
    collections::{HashMap, HashSet},
    iter, mem,
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
    error::with_timeout,
    known_objects::{Change, KnownObjects},
};
use crate::manifests::{MANAGED_BY, pod_monitor};
use api::Microservice;

/// How often discovery is asked for a kind that the cluster may lack.
const DISCOVERY_PERIOD: Duration = Duration::from_secs(30);

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
    let mut listed = Vec::new();
    watcher(api, watcher::Config::default())
        .default_backoff()
        .modify(|object| object.metadata.managed_fields = None)
        .reflect(writer)
        .flat_map(move |event| {
            let mut deleted = Vec::new();
            let updated = match event {
                Ok(watcher::Event::Init) => {
                    listed.clear();
                    Vec::new()
                }
                // The store contains listed objects only once the list is complete.
                Ok(watcher::Event::InitApply(object)) => {
                    listed.push(object);
                    Vec::new()
                }
                Ok(watcher::Event::InitDone) => {
                    // Nothing else reports what was deleted before the list.
                    deleted = known.retain(&listed.iter().map(ResourceExt::name_any).collect());
                    mem::take(&mut listed)
                }
                Ok(watcher::Event::Apply(object)) => vec![object],
                Ok(watcher::Event::Delete(object)) => {
                    deleted.extend(known.remove(&object.name_any()));
                    Vec::new()
                }
                Err(_) => Vec::new(),
            };
            // Of an object that was deleted and made again in an outage, only the second one is reported.
            deleted.extend(updated.iter().filter_map(|object| known.remove_predecessor(object)));
            for deletion in &deleted {
                context.forget(&deletion.change.name, deletion.uid.as_deref().unwrap_or_default());
            }
            let overwritten = updated.iter().filter(|object| context.own_statuses.is_overwritten(object));
            let overwritten: Vec<_> = overwritten.map(ObjectRef::from_obj).collect();
            let deleted = deleted.into_iter().map(|deletion| deletion.change);
            let changes: Vec<_> = deleted.chain(updated.iter().filter_map(|object| known.update(object))).collect();
            let changed = changes.into_iter().flat_map(|change| affected(&context, &change));
            stream::iter(changed.chain(overwritten).collect::<Vec<_>>())
        })
}

/// An object that changed, and the other objects that the change concerns.
fn affected(context: &Context, change: &Change) -> Vec<Trigger> {
    let changed = ObjectRef::new(&change.name).within(&context.settings.namespace);
    let others = change.affected(context.objects.state());
    iter::once(changed).chain(others.iter().map(|other| ObjectRef::from_obj(&**other))).collect()
}

/// Triggers for the owners of children that changed.
pub(crate) fn children(context: &Arc<Context>) -> impl Stream<Item = Trigger> + Send + use<> {
    stream::select_all(children::kinds().map(|kind| changes(context.clone(), kind).boxed()))
}

/// Triggers for the objects whose credentials were changed or deleted. Only the metadata of Secrets is read.
pub(crate) fn credentials(context: &Arc<Context>) -> impl Stream<Item = Trigger> + Send + use<> {
    let context = context.clone();
    let api: Api<PartialObjectMeta<Secret>> = Api::namespaced(context.client.clone(), &context.settings.namespace);
    let config = watcher::Config::default().labels(&format!("{MANAGED_BY},app.kubernetes.io/component=database"));
    // Version and object, by the name of the Secret. New Secrets trigger nothing: a reconcile has just created them.
    let mut known: HashMap<String, (Option<String>, String)> = HashMap::new();
    let mut listed = HashSet::new();
    watcher(api, config).default_backoff().flat_map(move |event| {
        let mut update = |secret: &PartialObjectMeta<Secret>| {
            let object = secret.labels().get("app.kubernetes.io/name")?.clone();
            let version = secret.resource_version();
            let before = known.insert(secret.name_any(), (version.clone(), object.clone()));
            before.filter(|(before, _)| *before != version).map(|_| object)
        };
        let changed: Vec<String> = match event {
            Ok(watcher::Event::Init) => {
                listed.clear();
                Vec::new()
            }
            Ok(watcher::Event::InitApply(secret)) => {
                listed.insert(secret.name_any());
                update(&secret).into_iter().collect()
            }
            // Nothing else reports what was deleted before the list.
            Ok(watcher::Event::InitDone) => {
                known.extract_if(|name, _| !listed.contains(name)).map(|(_, (_, object))| object).collect()
            }
            Ok(watcher::Event::Apply(secret)) => update(&secret).into_iter().collect(),
            Ok(watcher::Event::Delete(secret)) => {
                known.remove(&secret.name_any()).map(|(_, object)| object).into_iter().collect()
            }
            Err(_) => Vec::new(),
        };
        let trigger = |object: String| ObjectRef::new(&object).within(&context.settings.namespace);
        stream::iter(changed.into_iter().map(trigger).collect::<Vec<_>>())
    })
}

/// Triggers for the owners of `PodMonitor`s that changed, and for every object when that kind is installed or removed.
pub(crate) fn pod_monitors(
    context: &Arc<Context>,
    found: watch::Sender<bool>,
) -> impl Stream<Item = Trigger> + Send + use<> {
    let (watching, mut known) = (context.clone(), context.pod_monitors.clone());
    // Starts once the kind is installed. If it is removed again, the watch retries with backoff.
    let watched = stream::once(async move { known.wait_for(|found| *found).await.map(drop) })
        .flat_map(move |_| changes(watching.clone(), pod_monitor::resource()));
    let discovering = context.clone();
    let discovered = stream::unfold((found, discovering), |(found, context)| async {
        if let Some(served) = is_served(&context, &pod_monitor::resource()).await
            && found.send_replace(served) != served
        {
            let objects = context.objects.state();
            let all: Vec<_> = objects.iter().map(|object| ObjectRef::from_obj(&**object)).collect();
            return Some((stream::iter(all), (found, context)));
        }
        time::sleep(DISCOVERY_PERIOD).await;
        Some((stream::iter(Vec::new()), (found, context)))
    });
    stream::select(watched, discovered.flatten())
}

/// Records every change of a kind of child and triggers its owner, and its former owner if it has changed.
fn changes(context: Arc<Context>, kind: ApiResource) -> impl Stream<Item = Trigger> + Send {
    let api: Api<DynamicObject> = Api::namespaced_with(context.client.clone(), &context.settings.namespace, &kind);
    let mut listed = HashSet::new();
    let events = watcher(api, watcher::Config::default().labels(MANAGED_BY)).default_backoff();
    events.flat_map(move |event| {
        let owners = match event {
            Ok(watcher::Event::Init) => {
                listed.clear();
                Vec::new()
            }
            Ok(watcher::Event::InitApply(object)) => {
                listed.insert(object.name_any());
                context.children.observe(&kind, &object, true)
            }
            // Nothing else reports what was deleted before the list.
            Ok(watcher::Event::InitDone) => context.children.retain(&kind, &listed),
            Ok(watcher::Event::Apply(object)) => context.children.observe(&kind, &object, true),
            Ok(watcher::Event::Delete(object)) => context.children.observe(&kind, &object, false),
            Err(_) => Vec::new(),
        };
        let trigger = |owner: String| ObjectRef::new(&owner).within(&context.settings.namespace);
        stream::iter(owners.into_iter().map(trigger).collect::<Vec<_>>())
    })
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
