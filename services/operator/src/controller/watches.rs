//! What besides an object itself asks for a look at it.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    iter, mem,
    sync::Arc,
    time::Duration,
};

use futures_util::{Stream, StreamExt, future, stream};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{
    Api, ResourceExt,
    api::{ApiResource, DynamicObject},
    runtime::{
        WatchStreamExt,
        reflector::{ObjectRef, store::Writer},
        watcher,
    },
};
use tokio::{sync::watch, time};

use super::{Context, calls, children, error::within, routes};
use crate::manifests::{MANAGED_BY, pod_monitor};
use api::Microservice;

/// Time between two looks for a kind that the cluster may lack.
const DISCOVERY_PERIOD: Duration = Duration::from_secs(30);

type Trigger = ObjectRef<Microservice>;

/// What each object asked for when it was last looked at.
#[derive(Default)]
struct Seen(HashMap<String, Asked>);

/// What tells whether an object asks for the same, and what concerns others.
#[derive(PartialEq)]
struct Asked {
    uid: Option<String>,
    generation: Option<i64>,
    annotations: Option<BTreeMap<String, String>>,
    shared: Shared,
}

/// The parts of a spec that concern other objects.
#[derive(Default, PartialEq)]
struct Shared {
    paths: Vec<String>,
    calls: Vec<String>,
}

impl Seen {
    /// The shared parts of an object before it changed; `None` where it asks for the same.
    fn change(&mut self, object: &Microservice) -> Option<Shared> {
        let ObjectMeta { uid, generation, annotations, .. } = object.metadata.clone();
        let shared = Shared { paths: routes::paths(object).to_vec(), calls: object.spec.calls.clone() };
        let now = Asked { uid, generation, annotations, shared };
        match self.0.get(&object.name_any()) {
            Some(before) if *before == now => None,
            _ => Some(self.0.insert(object.name_any(), now).map(|before| before.shared).unwrap_or_default()),
        }
    }

    /// The shared parts of an object when it went.
    fn end(&mut self, object: &Microservice) -> Shared {
        self.0.remove(&object.name_any()).map(|before| before.shared).unwrap_or_default()
    }
}

/// Changes of objects, and with each the others that ask for one of its paths, or one that it has given up, and those
/// that it calls or that call it. Not those of a status, which this operator writes itself.
pub(crate) fn objects(
    context: &Arc<Context>,
    writer: Writer<Microservice>,
) -> impl Stream<Item = Trigger> + Send + use<> {
    let context = context.clone();
    let api: Api<Microservice> = Api::namespaced(context.client.clone(), &context.settings.namespace);
    let mut seen = Seen::default();
    let mut listed = Vec::new();
    watcher(api, watcher::Config::default())
        .default_backoff()
        .modify(|object| object.metadata.managed_fields = None)
        .reflect(writer)
        .flat_map(move |event| {
            let touched = match event {
                // The store has what is listed only once the list is complete.
                Ok(watcher::Event::InitApply(object)) => {
                    listed.push(object);
                    Vec::new()
                }
                Ok(watcher::Event::InitDone) => mem::take(&mut listed),
                Ok(watcher::Event::Apply(object)) => vec![object],
                Ok(watcher::Event::Delete(object)) => {
                    context.forget(&object);
                    let before = seen.end(&object);
                    return stream::iter(concerned(&context, &object, &before));
                }
                Ok(watcher::Event::Init) | Err(_) => Vec::new(),
            };
            let changed = touched.into_iter().filter_map(|object| Some((seen.change(&object)?, object)));
            stream::iter(changed.flat_map(|(before, object)| concerned(&context, &object, &before)).collect::<Vec<_>>())
        })
}

/// An object that changed, and those whose paths, callers or callees that may change.
fn concerned(context: &Context, object: &Microservice, before: &Shared) -> Vec<Trigger> {
    let rivals = routes::rivals(object, &before.paths, context.objects.state());
    let peers = calls::peers(object, &before.calls, context.objects.state());
    let others = rivals.iter().chain(&peers).map(|other| ObjectRef::from_obj(&**other));
    iter::once(ObjectRef::from_obj(object)).chain(others).collect()
}

/// Changes of children, by whatever hand.
pub(crate) fn children(context: &Arc<Context>) -> impl Stream<Item = Trigger> + Send + use<> {
    stream::select_all(children::kinds().map(|kind| changes(context.clone(), kind).boxed()))
}

/// Changes of `PodMonitor`s; and every object, when the cluster turns out to have that kind, or to have it no longer.
pub(crate) fn pod_monitors(
    context: &Arc<Context>,
    found: watch::Sender<bool>,
) -> impl Stream<Item = Trigger> + Send + use<> {
    let (watching, mut known) = (context.clone(), context.pod_monitors.clone());
    // Begun once there is something to watch; should it go, the watch tries again, slower and slower.
    let watched = stream::once(async move { known.wait_for(|found| *found).await.map(drop) })
        .flat_map(move |_| changes(watching.clone(), pod_monitor::resource()));
    let discovering = context.clone();
    let discovered = stream::unfold((found, discovering), |(found, context)| async {
        if let Some(served) = is_served(&context, &pod_monitor::resource()).await
            && found.send_replace(served) != served
        {
            let objects = context.objects.state();
            let everyone: Vec<_> = objects.iter().map(|object| ObjectRef::from_obj(&**object)).collect();
            return Some((stream::iter(everyone), (found, context)));
        }
        time::sleep(DISCOVERY_PERIOD).await;
        Some((stream::iter(Vec::new()), (found, context)))
    });
    stream::select(watched, discovered.flatten())
}

/// Notes every change of a kind of child, and names its owner.
fn changes(context: Arc<Context>, kind: ApiResource) -> impl Stream<Item = Trigger> + Send {
    let api: Api<DynamicObject> = Api::namespaced_with(context.client.clone(), &context.settings.namespace, &kind);
    let mut listed = HashSet::new();
    let events = watcher(api, watcher::Config::default().labels(MANAGED_BY)).default_backoff();
    events.filter_map(move |event| {
        let trigger = event.ok().and_then(|event| match event {
            watcher::Event::Init => {
                listed.clear();
                None
            }
            watcher::Event::InitApply(object) => {
                listed.insert(object.name_any());
                Some((object, true))
            }
            watcher::Event::InitDone => {
                context.children.retain(&kind, &listed);
                None
            }
            watcher::Event::Apply(object) => Some((object, true)),
            watcher::Event::Delete(object) => Some((object, false)),
        });
        future::ready(trigger.and_then(|(object, exists)| {
            context.children.note(&kind, &object, exists);
            let owner = object.owner_references().iter().find(|owner| owner.kind == "Microservice")?;
            Some(ObjectRef::new(&owner.name).within(&context.settings.namespace))
        }))
    })
}

/// Whether the API server has a kind; `None` where it cannot be asked.
async fn is_served(context: &Context, kind: &ApiResource) -> Option<bool> {
    let request = context.client.list_api_group_resources(&kind.api_version);
    match within("looking for a kind", request).await {
        Ok(list) => Some(list.resources.iter().any(|resource| resource.kind == kind.kind)),
        Err(error) if error.is_gone() => Some(false),
        Err(_) => None,
    }
}
