#!/usr/bin/env bash
# Checks `hedgerow new`: creates a service in Rust and one in Python in a copy of this workspace, lints and tests the
# first, adds both to the chart and to the images, then runs both and sends them requests through the gateway. Needs
# curl, python3 and Postgres.
set -euo pipefail
cd "$(dirname "$0")/.."

CARGO_TARGET_DIR=$(realpath -m "${CARGO_TARGET_DIR:-target}")
export CARGO_TARGET_DIR
scratch=$(mktemp -d)
up=
finish() {
    if [ -n "$up" ] && kill "$up"; then wait "$up" || true; fi
    rm -rf "$scratch"
}
trap finish EXIT
fail() { echo "check-new: $*" >&2 && cat "$scratch/log" >&2 && exit 1; }

copy=$scratch/workspace
mkdir "$copy"
git ls-files -z --cached --others --exclude-standard --deduplicate | while IFS= read -rd '' file; do
    [ ! -e "$file" ] || printf '%s\0' "$file"
done | tar --create --null --files-from - | tar --extract --directory "$copy"
chmod 755 "$scratch" # root's Postgres runs as another user

cd "$copy"
: >"$scratch/log"
timeout 1800 cargo build --quiet --package hedgerow --package gateway --package operator
hedgerow=$CARGO_TARGET_DIR/debug/hedgerow
"$hedgerow" new orders
"$hedgerow" new notes --python

cargo fmt --all --check
timeout 1800 cargo clippy --quiet --package orders --all-targets -- -D warnings
timeout 1800 cargo build --quiet --package orders
timeout 1800 "$hedgerow" postgres -- cargo test --quiet --package orders

# What `make manifests` and `make images` do with them. A stand-in for docker logs what it is asked to build: a Python
# service needs no binary.
"$CARGO_TARGET_DIR/debug/operator" chart helm/hedgerow services/*/microservice.yaml
for service in orders notes; do
    grep -q "^  $service:" helm/hedgerow/values.yaml || fail "services.$service is missing from the chart's values"
    deploy/images.sh list | grep -q "/$service:" || fail "deploy/images.sh does not list $service"
done
mkdir "$scratch/bin"
printf '#!/bin/sh\necho "docker $*" >>"%s"\n' "$scratch/log" >"$scratch/bin/docker"
chmod +x "$scratch/bin/docker"
PATH=$scratch/bin:$PATH IMAGE_SERVICES=notes deploy/images.sh >/dev/null
grep -q 'docker build .*/notes:[^ ]* services/notes$' "$scratch/log" || fail "services/notes/Dockerfile is not built"
! deploy/services.sh | grep -qx notes || fail "deploy/services.sh lists notes as a binary"
: >"$scratch/log"

gateway=127.0.0.1:18090
GATEWAY_ADDR=$gateway GATEWAY_ADMIN_ADDR=127.0.0.1:19190 \
    ORDERS_ADDR=127.0.0.1:18091 ORDERS_ADMIN_ADDR=127.0.0.1:19191 \
    NOTES_ADDR=127.0.0.1:18092 NOTES_ADMIN_ADDR=127.0.0.1:19192 \
    "$hedgerow" up -f services/gateway -f services/orders -f services/notes --data-dir "$scratch/data" >"$scratch/log" 2>&1 &
up=$!
get() { curl --silent --show-error --fail --max-time 10 "http://$gateway$1"; }
deadline=$((SECONDS + 120))
until grep -q '^Try:' "$scratch/log"; do
    kill -0 "$up" 2>/dev/null || fail "hedgerow up exited"
    [ $SECONDS -lt $deadline ] || fail "hedgerow up did not start in time"
    sleep 0.2
done
for service in orders notes; do
    created=$(curl --silent --show-error --fail --max-time 10 --header 'content-type: application/json' \
        --data '{"name": "first"}' "http://$gateway/$service") || fail "POST /$service failed"
    id=$(python3 -c 'import json, sys; print(json.load(sys.stdin)["id"])' <<<"$created")
    get "/$service/$id" | grep -q '"first"' || fail "GET /$service/$id does not return what was created"
    get "/$service" | grep -q "$id" || fail "GET /$service does not list what was created"
    until get /openapi.json | grep -q "\"/$service\""; do
        [ $SECONDS -lt $deadline ] || fail "/$service is missing from the gateway's /openapi.json"
        sleep 0.5
    done
done
get /docs/ | grep -qi '<html' || fail "the gateway's /docs does not load"
echo "check-new: services in Rust and Python were created, checked and run"
