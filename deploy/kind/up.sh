#!/usr/bin/env bash
# Creates a kind cluster, builds and loads the images, and installs the chart. Can be repeated; an existing cluster is
# reused.
#
# KIND_CLUSTER is the name of the cluster (hedgerow), NAMESPACE the namespace of the release (hedgerow).
set -euo pipefail
cd "$(dirname "$0")/../.."

cluster=${KIND_CLUSTER:-hedgerow}
namespace=${NAMESPACE:-hedgerow}
for program in kind helm kubectl; do
    command -v "$program" >/dev/null || { echo "kind/up.sh: $program is not installed" >&2; exit 1; }
done

grep -qxF "$cluster" <<<"$(kind get clusters 2>/dev/null)" ||
    kind create cluster --name "$cluster" --config deploy/kind/cluster.yaml

deploy/images.sh
archives=$(mktemp -d)
trap 'rm -rf "$archives"' EXIT
deploy/images.sh save "$archives"
for archive in "$archives"/*.tar; do
    kind load image-archive --name "$cluster" "$archive"
done

# The --wait of Helm 3 ignores Microservice objects.
helm upgrade --install hedgerow helm/hedgerow --kube-context "kind-$cluster" \
    --namespace "$namespace" --create-namespace --wait --timeout 5m
kubectl --context "kind-$cluster" --namespace "$namespace" wait msvc --all --for=condition=Ready --timeout=5m
