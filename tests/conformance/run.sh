#!/usr/bin/env bash
# Tests the gateway and every service with an OpenAPI document, alone and through the gateway, against these documents
# with all checks of schemathesis. HEDGEROW is the command line to test ($CARGO_TARGET_DIR/debug/hedgerow).
#
#     tests/conformance/run.sh [ARGUMENT FOR `st run`]...      for example --max-examples 500 or --seed 1
set -euo pipefail
cd "$(dirname "$0")/../.."
root=$PWD

hedgerow=$(realpath "${HEDGEROW:-${CARGO_TARGET_DIR:-target}/debug/hedgerow}")
cache=${XDG_CACHE_HOME:-$HOME/.cache}/hedgerow-conformance
scratch=$(mktemp -d)
up=
# shellcheck disable=SC2317 # called by the trap
finish() {
    if [ -n "$up" ] && kill "$up"; then
        wait "$up" || true
    fi
    rm -rf "$scratch"
}
trap finish EXIT

python3 -m venv "$cache" 2>"$scratch/venv" || {
    cat "$scratch/venv" >&2
    echo "conformance: python3 and its venv module are required; run \`apt-get install python3-venv\`" >&2
    exit 1
}
"$cache/bin/pip" install --quiet --disable-pip-version-check --requirement tests/conformance/requirements.txt

# Other ports than those of `make run`.
declare -A addresses=()
number=0
for service in $(deploy/services.sh); do
    variable=${service^^}
    variable=${variable//-/_}
    addresses[$service]=127.0.0.1:$((18080 + number))
    export "${variable}_ADDR=${addresses[$service]}"
    export "${variable}_ADMIN_ADDR=127.0.0.1:$((19090 + number))" "${variable}_GRPC_ADDR=127.0.0.1:$((15050 + number))"
    number=$((number + 1))
done
chmod 755 "$scratch" # as root, Postgres runs as another user
"$hedgerow" up --data-dir "$scratch/data" >"$scratch/log" 2>&1 &
up=$!
deadline=$((SECONDS + 120))
until grep -q '^Hedgerow is up' "$scratch/log"; do
    if [ $SECONDS -gt $deadline ] || ! kill -0 "$up" 2>/dev/null; then
        cat "$scratch/log" >&2
        echo "conformance: hedgerow up did not start" >&2
        exit 1
    fi
    sleep 0.2
done

failed=0
for service in "${!addresses[@]}"; do
    (cd "$scratch" && "$cache/bin/st" --config-file "$root/tests/conformance/schemathesis.toml" run \
        --checks all --continue-on-failure "http://${addresses[$service]}/openapi.json" "$@") || failed=1
done
if grep -E '"level":"ERROR"' "$scratch/log"; then
    echo "conformance: the services logged errors" >&2
    failed=1
fi
exit $failed
