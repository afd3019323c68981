#!/usr/bin/env bash
# Runs every property test of the libraries again and again, with new random input, for MINUTES (5).
#
# CASES is how many inputs each test gets in a round (1000). If a test fails, proptest writes the seed of the smallest
# failing input to proptest-regressions in the crate: commit it with the fix. `make test` then tries it first.
set -euo pipefail
cd "$(dirname "$0")/.."

minutes=${MINUTES:-5}
export PROPTEST_CASES=${CASES:-1000}

# The tests in the blocks `proptest! { ... }` of all crates.
# shellcheck disable=SC2016 # an awk program
names='
    /^ *proptest! \{/ { end = $0; sub(/proptest.*/, "}", end); within = 1 }
    within && $0 == end { within = 0 }
    within && /^ *fn / { sub(/\(.*/, "", $2); print $2 }'
mapfile -t tests < <(git grep --untracked -l '^ *proptest! {' -- '*/src/*.rs' | xargs awk "$names" | sort -u)
echo "${#tests[@]} property tests, for about $minutes minutes:"
printf '  %s\n' "${tests[@]}"
cargo test --workspace --lib --no-run --quiet

log=$(mktemp)
trap 'rm -f "$log"' EXIT
end=$((SECONDS + minutes * 60)) rounds=0
while :; do
    cargo test --workspace --lib --no-fail-fast -- "${tests[@]}" >"$log" 2>&1 || { cat "$log" && exit 1; }
    rounds=$((rounds + 1))
    passed=$(awk '/^test result: ok/ { sum += $4 } END { print sum }' "$log")
    echo "round $rounds: $passed tests passed with $PROPTEST_CASES inputs each"
    [ $SECONDS -lt $end ] || break
done
