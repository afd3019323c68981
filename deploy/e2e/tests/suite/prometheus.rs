//! A real Prometheus, which discovers the pods by their annotations, as its usual configuration does.
//!
//! It runs next to the suite, and reaches the API server and the pods through `kubectl proxy`.

use std::{collections::BTreeSet, fs, net::TcpListener, sync::Arc};

use serde_json::{Value, json};
use tempfile::TempDir;
use test_support::cluster::{SOON, eventually};

use crate::{
    command::Running,
    release::{Release, SERVICES},
    tool::{BOTH, STOCK, Tool, names, summary},
};

struct Prometheus {
    url: String,
    client: reqwest::Client,
    _running: [Running; 2],
    _folder: TempDir,
}

impl Prometheus {
    async fn start(namespace: &str) -> Self {
        let proxy = Running::start("kubectl", &["proxy", "--port=0"], "Starting to serve on").await;
        let api = proxy.line.rsplit(' ').next().expect("an address").to_owned();
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("prometheus.json");
        fs::write(&file, configuration(namespace, &api).to_string()).expect("the file is written");
        let arguments = format!(
            "exec prometheus --config.file={} --storage.tsdb.path={}",
            file.display(),
            folder.path().join("data").display()
        );
        let mut tries = 0..3;
        let (free, server) = loop {
            tries.next().expect("Prometheus starts");
            // Prometheus does not print the port that it gets for port 0, so find a free one. Another process may take
            // it first.
            let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port");
            let arguments = format!("{arguments} --web.listen-address={free} 2>&1");
            if let Some(server) = Running::try_start("sh", &["-c", &arguments], "Server is ready").await {
                break (free, server);
            }
        };
        let client = reqwest::Client::new();
        Self { url: format!("http://{free}/api/v1/query"), client, _running: [proxy, server], _folder: folder }
    }

    /// The result of an instant query: the pod and the value of each series.
    async fn query(&self, query: &str) -> Vec<(String, f64)> {
        let url = format!(
            "{}?{}",
            self.url,
            form_urlencoded::Serializer::new(String::new()).append_pair("query", query).finish()
        );
        let response: Value = self.client.get(url).send().await.expect("a response").json().await.expect("JSON");
        let series = response["data"]["result"].as_array().expect("series");
        let value = |one: &Value| {
            let value = one["value"][1].as_str()?.parse().ok()?;
            Some((one["metric"]["pod"].as_str().unwrap_or_default().to_owned(), value))
        };
        series.iter().filter_map(value).collect()
    }
}

fn configuration(namespace: &str, api: &str) -> Value {
    let annotation = |name: &str| format!("__meta_kubernetes_pod_annotation_prometheus_io_{name}");
    json!({
        "global": { "scrape_interval": "1s" },
        "scrape_configs": [{
            "job_name": "pods",
            "kubernetes_sd_configs": [{
                "role": "pod", "api_server": format!("http://{api}"), "namespaces": { "names": [namespace] },
            }],
            "relabel_configs": [
                { "source_labels": [annotation("scrape")], "regex": "true", "action": "keep" },
                {
                    "source_labels": ["__meta_kubernetes_pod_name", annotation("port"), annotation("path")],
                    "regex": "(.+);(.+);(.+)",
                    "target_label": "__metrics_path__",
                    "replacement": format!("/api/v1/namespaces/{namespace}/pods/$1:$2/proxy$3"),
                },
                { "target_label": "__address__", "replacement": api },
                { "source_labels": ["__meta_kubernetes_pod_name"], "target_label": "pod" },
                { "source_labels": ["__meta_kubernetes_pod_label_app_kubernetes_io_name"], "target_label": "app" },
            ],
        }],
    })
}

/// `up` is 1 for each pod, and the counters equal the number of requests that were sent.
pub async fn every_pod_is_scraped_and_every_request_counted(on: Arc<Release>) {
    on.upgrade_to(2, &[]).await;
    let prometheus = Prometheus::start(&on.name).await;
    eventually("every pod is up, and nothing else is scraped", SOON, async || {
        let mut pods: BTreeSet<String> = on.operators().await.into_iter().collect();
        for name in SERVICES {
            pods.extend(names(&on.pods(name).await));
        }
        let up = prometheus.query("up").await;
        let all_up = up.iter().all(|(_, value)| *value > 0.5);
        all_up && pods.len() == 8 && up.into_iter().map(|(pod, _)| pod).collect::<BTreeSet<_>>() == pods
    })
    .await;

    // The last value of each pod, over a range: a delayed scrape fails, and an instant vector would then lack the pod
    // until the next scrape.
    let requests = r#"sum by (app) (max_over_time(http_requests_total{route!="unmatched"}[1d]))"#;
    let total = async || prometheus.query(requests).await.iter().map(|(_, value)| value).sum::<f64>();
    let before = total().await;
    let arguments = [&["load", "--duration", "10s", "--rate", "200"], &BOTH[..], &STOCK].concat();
    let (succeeded, log) = Tool::start(&on, &arguments, true).await.end().await;
    let summary = summary(&log);
    assert!(succeeded, "{summary:?}");
    let sent = u32::try_from(summary.requests).expect("few requests");
    eventually("all requests are counted", SOON, async || total().await - before >= f64::from(sent)).await;
    // Check again after the next scrape of each pod: there are no extra requests.
    let seen = prometheus.query("max(timestamp(up))").await;
    eventually("every pod is scraped again", SOON, async || {
        let now = prometheus.query("min(timestamp(up))").await;
        now[0].1 > seen[0].1
    })
    .await;
    let counted = total().await - before;
    println!("sent {sent}, counted {counted}");
    assert!((counted - f64::from(sent)).abs() < 0.5, "sent {sent}, counted {counted}");
    on.upgrade(&[]).await.expect("an upgrade");
}
