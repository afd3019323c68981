#!/usr/bin/env bash
# Measures the operator in the current kube context, in its own namespace: how long until a service with a database is
# ready, until a deleted child is back, until a change is acted on beside 100 objects whose server never answers, and what
# 500 objects cost. Needs kubectl, jq, and the images and postgres:15 on the nodes. The nodes are tainted during the
# measurement, so that no pod of the 500 objects runs.
set -euo pipefail
cd "$(dirname "$0")/.."

OBJECTS=${OBJECTS:-500}
SILENT=${SILENT:-100}
ROUNDS=${ROUNDS:-5}
tag=${IMAGE_TAG:-$(sed -n '0,/^version = / s/^version = "\(.*\)"/\1/p' Cargo.toml)}
users=${IMAGE_REGISTRY:-localhost/hedgerow}/users:$tag
namespace=hedgerow-bench-$$
many=$(mktemp)

k() { kubectl --namespace "$namespace" "$@"; }
now() { date +%s.%N; }
since() { awk -v begun="$1" -v now="$(now)" 'BEGIN { printf "%.2f", now - begun }'; }
median() { sort -n | awk '{ all[NR] = $1 } END { print all[int((NR + 1) / 2)] }'; }
row() { echo "| $1 | $2 | ${3:-} |"; }
wait_until() { # SECONDS CMD...: retries every 50 ms
    local end=$((SECONDS + $1))
    shift
    until "$@"; do
        [ "$SECONDS" -lt "$end" ] || { echo "bench: timed out: $*" >&2 && exit 1; }
        sleep 0.05
    done
}
object() { # NAME SPEC
    printf 'apiVersion: hedgerow.dev/v1alpha1\nkind: Microservice\nmetadata: {name: %s}\nspec: %s\n---\n' "$1" "$2"
}
cleanup() {
    rm -f "$many"
    kubectl taint nodes --all hedgerow-bench- >/dev/null 2>&1 || true
    kubectl delete namespace "$namespace" --wait=false >/dev/null 2>&1 || true
}
trap cleanup EXIT

kubectl create namespace "$namespace" >/dev/null
kubectl apply --server-side -k deploy/operator --namespace "$namespace" >/dev/null
k apply -f - >/dev/null <<END
apiVersion: v1
kind: Secret
metadata: {name: hedgerow-postgres}
stringData: {url: "postgres://postgres:bench@postgres.$namespace.svc:5432/postgres"}
---
apiVersion: v1
kind: Service
metadata: {name: postgres}
spec: {selector: {app: postgres}, ports: [{port: 5432}]}
---
apiVersion: v1
kind: Pod
metadata: {name: postgres, labels: {app: postgres}}
spec:
  securityContext: {runAsUser: 999, runAsGroup: 999, fsGroup: 999}
  volumes: [{name: run, emptyDir: {}}]
  containers:
  - name: postgres
    image: postgres:15
    imagePullPolicy: IfNotPresent
    args: [postgres, -c, max_connections=300]
    env: [{name: POSTGRES_PASSWORD, value: bench}]
    volumeMounts: [{name: run, mountPath: /var/run/postgresql}]
    readinessProbe: {exec: {command: [pg_isready, -h, 127.0.0.1]}, periodSeconds: 1}
END
k wait pod/postgres --for=condition=Ready --timeout=120s >/dev/null
k rollout status deployment/hedgerow-operator --timeout=120s >/dev/null

leader() { k get lease hedgerow-operator --output jsonpath='{.spec.holderIdentity}'; }
metrics() { kubectl get --raw "/api/v1/namespaces/$namespace/pods/$(leader):9090/proxy/metrics"; }
has_leader() { [ -n "$(leader 2>/dev/null)" ]; }
wait_until 60 has_leader

echo "| figure | median | all |"
echo "|---|---|---|"
times=()
for round in $(seq "$ROUNDS"); do
    begun=$(now)
    object "ready-$round" "{image: '$users', database: {}}" | k apply -f - >/dev/null
    k wait "msvc/ready-$round" --for=condition=Ready --timeout=120s >/dev/null
    times+=("$(since "$begun")")
    k delete "msvc/ready-$round" --wait=false >/dev/null
done
row "apply to Ready, with a database, s" "$(printf '%s\n' "${times[@]}" | median)" "${times[*]}"

object kept "{image: '$users', database: {}, scaling: {min: 1, max: 1}}" | k apply -f - >/dev/null
k wait msvc/kept --for=condition=Ready --timeout=120s >/dev/null
times=()
is_back() { k get networkpolicy kept --output name >/dev/null 2>&1; }
for round in $(seq "$ROUNDS"); do
    k delete networkpolicy kept >/dev/null
    begun=$(now)
    wait_until 10 is_back
    times+=("$(since "$begun")")
done
row "until a deleted child is back, s" "$(printf '%s\n' "${times[@]}" | median)" "${times[*]}"

# A server that accepts connections and never answers: its main process is stopped.
k apply -f - >/dev/null <<'END'
apiVersion: v1
kind: Secret
metadata: {name: silent}
stringData: {url: "postgres://postgres:bench@silent:5432/postgres"}
---
apiVersion: v1
kind: Service
metadata: {name: silent}
spec: {selector: {app: silent}, ports: [{port: 5432}]}
---
apiVersion: v1
kind: Pod
metadata: {name: silent, labels: {app: silent}}
spec:
  securityContext: {runAsUser: 999, runAsGroup: 999, fsGroup: 999}
  volumes: [{name: run, emptyDir: {}}]
  containers:
  - name: postgres
    image: postgres:15
    imagePullPolicy: IfNotPresent
    command: [bash, -c, 'docker-entrypoint.sh postgres & echo $! >/var/run/postgresql/pid; wait']
    env: [{name: POSTGRES_PASSWORD, value: bench}]
    volumeMounts: [{name: run, mountPath: /var/run/postgresql}]
    readinessProbe: {exec: {command: [test, -e, /var/run/postgresql/pid]}, periodSeconds: 1}
END
k wait pod/silent --for=condition=Ready --timeout=120s >/dev/null
# shellcheck disable=SC2016 # for the shell in the pod
k exec silent -- bash -c 'until pg_isready -q -h 127.0.0.1; do sleep 0.1; done; kill -STOP "$(cat /var/run/postgresql/pid)"'

kubectl taint nodes --all hedgerow-bench=:NoSchedule --overwrite >/dev/null
for number in $(seq "$SILENT"); do object "silent-$number" "{image: '$users', database: {server: silent}}"; done |
    k apply --server-side -f - >/dev/null
is_reported() {
    [ "$(k get msvc --output json | jq '[.items[] | select(.metadata.name | startswith("silent-"))
        | select(.status.conditions // [] | any(.type == "DatabaseReady" and .status == "False"))] | length')" -eq "$SILENT" ]
}
wait_until 300 is_reported
times=()
for round in $(seq "$ROUNDS"); do
    begun=$(now)
    k patch msvc/kept --type merge --patch "{\"spec\": {\"scaling\": {\"min\": $((round + 1)), \"max\": $((round + 1))}}}" >/dev/null
    is_scaled() { [ "$(k get deployment kept --output jsonpath='{.spec.replicas}')" = $((round + 1)) ]; }
    wait_until 60 is_scaled
    times+=("$(since "$begun")")
done
row "a changed object beside $SILENT whose server is silent, until its Deployment is changed, s" \
    "$(printf '%s\n' "${times[@]}" | median)" "${times[*]}"
k delete msvc --all --wait=false >/dev/null
no_objects() { [ -z "$(k get msvc --output name)" ]; }
wait_until 120 no_objects

for number in $(seq "$OBJECTS"); do object "many-$number" "{image: '$users', scaling: {min: 1, max: 1}}"; done >"$many"
begun=$(now)
k apply --server-side -f "$many" >/dev/null
all_there() {
    local seen kind
    seen=$(k get msvc --output json | jq '[.items[] | select(.metadata.name | startswith("many-"))
        | select(.status.observedGeneration == .metadata.generation)] | length')
    [ "$seen" -eq "$OBJECTS" ] || return 1
    for kind in deployments:1 services:2 serviceaccounts:1 networkpolicies:1; do
        [ "$(k get "${kind%:*}" --output name | grep -c '/many-')" -eq $((OBJECTS * ${kind#*:})) ] || return 1
    done
}
wait_until 600 all_there
row "$OBJECTS objects have all their children, s" "$(since "$begun")"

# Wait for the steady state.
is_idle() { [ "$(metrics | awk '/^operator_queue_depth/ { print $2 }')" = 0 ]; }
wait_until 120 is_idle
sleep 30
writes() { metrics | awk '/^operator_api_requests_total/ && !/verb="(get|list|watch)"/ && !/resource="leases"/ { sum += $2 } END { print sum + 0 }'; }
before=$(writes)
sleep 60
row "writes in 60 s with $OBJECTS objects, other than the Lease" $(($(writes) - before))
row "memory of the leader at that point, MB" "$(metrics | awk '/^process_resident_memory_bytes/ { printf "%.1f", $2 / 1000000 }')"
