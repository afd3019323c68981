#!/usr/bin/env bash
# Runs all tests on an ephemeral Postgres, then says how long each part took.
set -euo pipefail
cd "$(dirname "$0")/.."

target=${CARGO_TARGET_DIR:-target}
parts=()

timed() { # NAME COMMAND...
    local name=$1 start=$SECONDS status=0
    shift
    "$@" || status=$?
    parts+=("$(printf '%-24s %5d s' "$name" $((SECONDS - start)))")
    return "$status"
}

report() {
    echo
    printf '%s\n' "${parts[@]}"
}
trap report EXIT

[ -d "$target/debug/deps" ] || echo "Building the workspace and its tests: 5 to 10 minutes the first time."
timed "build the workspace" cargo build --workspace
timed "build the tests" cargo test --workspace --no-run
timed "run the tests" "$target/debug/hedgerow" postgres -- cargo test --workspace
if deploy/install.sh promtool; then
    timed "check /metrics" make --no-print-directory check-metrics
else
    echo "skipped: promtool is not installed" >&2
fi
