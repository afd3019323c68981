#!/usr/bin/env bash
# Checks the chart with helm lint, and runs kube-score on the rendered chart and on the children that the operator
# renders for it. Requires helm, kube-score and a built operator (OPERATOR).
set -euo pipefail
cd "$(dirname "$0")/.."

# The critical checks of kube-score that do not apply, and why.
ignored=(
    # Root file systems are read-only: containers write to volumes, which have size limits.
    container-ephemeral-storage-request-and-limit
    # Tags are never moved (`latest` is refused), so pods can start while the registry is unavailable. Always would also
    # pull images that were loaded into kind or minikube.
    container-image-pull-policy
    # Bundled Postgres only: 999 is the user that owns the data in the official image.
    container-security-context-user-group-id
    # Bundled Postgres only: its Service keeps its address when the pod is replaced. With a headless Service, clients
    # would wait for DNS. There is only one pod, so it needs no DNS name of its own.
    statefulset-has-servicename
    # The policy of `helm test` only: it selects pods that the operator creates and the chart does not render.
    networkpolicy-targets-pod
)
# A CPU limit throttles a pod even if its node is idle. Requests divide the CPU, and the autoscaler uses them.
arguments=(--ignore-container-cpu-limit)
for test in "${ignored[@]}"; do
    arguments+=(--ignore-test "$test")
done

score() {
    # Only critical findings are shown and fail the check.
    kube-score score "${arguments[@]}" --output-format ci "$@" |
        awk '/^\[CRITICAL\]/ { print; found = 1 } END { exit found }'
}

# Fails unless helm refuses the values with this message.
refused() {
    local output
    output=$(helm template hedgerow helm/hedgerow --set "$1" 2>&1 >/dev/null) && output="it is accepted"
    grep -qF "$2" <<<"$output" || { echo "the values '$1' must be refused with '$2': $output" >&2; exit 1; }
}

helm lint --strict --quiet helm/hedgerow
refused image.tag=latest "image.tag must not be latest"
refused services.orders.scaling.min=3 "services.orders.image is required"
refused services.users.database.deletionPolicy=Delete "services.users.database.deletionPolicy must not be Delete"
refused services.users.databse.poolSize=4 "additional properties 'databse' not allowed"
# What is reachable from outside is locked, and the error has the line to add.
for exposed in ingress.enabled=true httpRoute.enabled=true services.gateway.service.type=NodePort \
    services.users.service.type=LoadBalancer ingress.enabled=true,auth.issuers[0].issuer=https://login.example; do
    refused "$exposed" "outside the cluster would be let in (${exposed%%,*})"
    refused "$exposed" "auth: {mode: required}"
done
for service in gateway inventory users; do
    refused "ingress.enabled=true,auth.mode=required,services.$service.env[0].name=AUTH,services.$service.env[0].value=open" \
        "services.$service.env must not set AUTH"
done
refused auth.mode=closed "'/auth/mode'"
refused auth.issuers[0].issuer=https://login.example,auth.issuers[0].jwks=x "additional properties 'jwks' not allowed"
refused auth.url=https://shop.example/ "'/auth/url'"
rendered=$(mktemp -d)
trap 'rm -rf "$rendered"' EXIT
outside='auth.mode=required,ingress.enabled=true,httpRoute.enabled=true,httpRoute.parentRefs[0].name=public,services.users.route.paths[0]=/'
for values in image.tag= "$outside" services.gateway=null services.users=null,auth.mode=required postgres.bundled.enabled=false; do
    helm template hedgerow helm/hedgerow --namespace shop --set "$values" >"$rendered/chart.yaml"
    awk 'BEGIN { RS = "---\n"; ORS = "---\n" } /\nkind: Microservice\n/' "$rendered/chart.yaml" >"$rendered/objects.yaml"
    authentication=()
    if grep -q "name: AUTH, value: required" "$rendered/chart.yaml"; then
        authentication=(--auth required --auth-issuer users --auth-issuer-url https://shop.example)
    fi
    "${OPERATOR:-target/debug/operator}" render -f "$rendered/objects.yaml" "${authentication[@]}" >"$rendered/children.yaml"
    # Guards against an empty result.
    grep -q "^kind: Deployment" "$rendered/chart.yaml"
    grep -q "^kind: Deployment" "$rendered/children.yaml"
    score "$rendered/chart.yaml" "$rendered/children.yaml" || { echo "kube-score, with the values '$values'" >&2; exit 1; }
done
