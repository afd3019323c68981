#!/usr/bin/env bash
# Runs the cluster tests and the end-to-end suite on their own kind cluster, which is kept for the next run;
# `kind delete cluster --name hedgerow-test` deletes it. Needs kind, helm 4, kubectl, kube-score, prometheus and docker.
#
# KIND_CLUSTER names the cluster (hedgerow-test).
set -euo pipefail
cd "$(dirname "$0")/../.."

cluster=${KIND_CLUSTER:-hedgerow-test}
for program in kind helm kubectl kube-score prometheus docker; do
    command -v "$program" >/dev/null || { echo "kind/test: $program is not installed" >&2; exit 1; }
done

grep -qxF "$cluster" <<<"$(kind get clusters 2>/dev/null)" ||
    kind create cluster --name "$cluster" --config deploy/kind/cluster.yaml
kubectl config use-context "kind-$cluster"

# The autoscaler needs metrics. The kubelets of kind have self-signed certificates.
kubectl apply -f https://github.com/kubernetes-sigs/metrics-server/releases/download/v0.8.0/components.yaml
kubectl --namespace kube-system patch deployment metrics-server --type=json \
    --patch '[{"op": "add", "path": "/spec/template/spec/containers/0/args/-", "value": "--kubelet-insecure-tls"}]'
kubectl --namespace kube-system rollout status deployment/metrics-server --timeout=3m

archives=$(mktemp -d)
trap 'rm -rf "$archives"' EXIT
make images
deploy/images.sh save "$archives"
# The version to upgrade to: the same binaries, which report another revision.
IMAGE_TAG=next HEDGEROW_REVISION=next make images
IMAGE_TAG=next deploy/images.sh save "$archives/next"
for archive in "$archives"/*.tar "$archives"/next/*.tar; do
    kind load image-archive --name "$cluster" "$archive"
done
docker pull --quiet postgres:15
kind load docker-image --name "$cluster" postgres:15

make check-chart test-cluster e2e ALL=1
