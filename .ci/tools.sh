#!/usr/bin/env bash
# Installs the tools that are named and missing into a folder of the user's cache, and prints that folder:
#
#     PATH=$(.ci/tools.sh TOOL...):$PATH      cargo-deny, actionlint, kube-score, helm, kind, prometheus,
#                                             dex, pyjwt (a Python with PyJWT)
set -euo pipefail

programs=${XDG_CACHE_HOME:-$HOME/.cache}/hedgerow/bin
mkdir -p "$programs"

go_install() { # MODULE@VERSION
    GOBIN=$programs go install "$1" >&2
}

for tool in "$@"; do
    [ ! -x "$programs/$tool" ] || continue
    echo "$tool is not installed: building it." >&2
    case $tool in
    cargo-deny) cargo install --locked --quiet --root "$(dirname "$programs")" cargo-deny@0.20.2 >&2 ;;
    actionlint) go_install github.com/rhysd/actionlint/cmd/actionlint@v1.7.12 ;;
    kube-score) go_install github.com/zegl/kube-score/cmd/kube-score@v1.20.0 ;;
    helm) go_install helm.sh/helm/v4/cmd/helm@v4.3.2 ;;
    kind) go_install sigs.k8s.io/kind@v0.33.0 ;;
    prometheus)
        # Distribution packages lack Kubernetes service discovery.
        module=$(mktemp -d)
        (
            cd "$module"
            go mod init prometheus
            go get github.com/prometheus/prometheus@v0.316.0
            CGO_ENABLED=0 go build -mod=mod -tags "netgo remove_all_sd enable_kubernetes_sd" -o "$programs/prometheus" \
                github.com/prometheus/prometheus/cmd/prometheus
        ) >&2
        rm -rf "$module"
        ;;
    dex)
        # No release of dex is usable as a Go module. Its API is a module of its own, of the same commit.
        module=$(mktemp -d)
        (
            cd "$module"
            go mod init dex
            go get github.com/dexidp/dex@v0.0.0-20260806151424-ab64ed778070 \
                github.com/dexidp/dex/api/v2@v2.4.1-0.20260806151424-ab64ed778070
            CGO_ENABLED=0 go build -mod=mod -ldflags "-s -w" -o "$programs/dex" github.com/dexidp/dex/cmd/dex
        ) >&2
        rm -rf "$module"
        ;;
    pyjwt)
        environment=$(dirname "$programs")/pyjwt
        python3 -m venv --clear "$environment" >&2
        "$environment/bin/pip" install --quiet --disable-pip-version-check PyJWT==2.15.1 cryptography==50.0.2 >&2
        printf '#!/bin/sh\nexec "%s/bin/python" "$@"\n' "$environment" >"$programs/pyjwt"
        chmod +x "$programs/pyjwt"
        ;;
    *) echo "tools: unknown tool $tool" >&2 && exit 2 ;;
    esac
done
echo "$programs"
