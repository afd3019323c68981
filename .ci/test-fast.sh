#!/usr/bin/env bash
# Runs the unit tests of the crates that changed since BASE: by default the point where this branch left main, or on
# main itself the last commit. Files that are not committed count as changed.
set -euo pipefail
cd "$(dirname "$0")/.."

base=${BASE:-$(git merge-base HEAD main 2>/dev/null || git rev-parse HEAD)}

# The name of each changed crate, as its test binaries have it, and its folder.
declare -A folders=()
while read -r folder; do
    while [ "$folder" != . ] && [ ! -f "$folder/Cargo.toml" ]; do
        folder=$(dirname "$folder")
    done
    [ "$folder" != . ] || continue
    name=$(sed -n '0,/^name = / s/^name = "\(.*\)"/\1/p' "$folder/Cargo.toml")
    folders[${name//-/_}]=$PWD/$folder
done < <({ git diff --name-only "$base"; git ls-files --others --exclude-standard; } | xargs -r dirname | sort -u)

if [ ${#folders[@]} -eq 0 ]; then
    echo "No crate has changed since $(git rev-parse --short "$base")."
    exit
fi
echo "Unit tests of ${!folders[*]}, changed since $(git rev-parse --short "$base")"

# All crates are built, as for `make test`: to build some of them would select other features of their dependencies, and
# compile those again.
built=$(mktemp)
trap 'rm -f "$built"' EXIT
cargo test --workspace --lib --bins --no-run 2>&1 | tee "$built" | { grep -v '^  Executable ' || true; }

failed=0
while read -r executable; do
    name=$(basename "$executable")
    folder=${folders[${name%-*}]:-}
    [ -n "$folder" ] || continue
    executable=$(realpath "$executable")
    (cd "$folder" && CARGO_MANIFEST_DIR=$folder "$executable" --quiet) || failed=1
done < <(sed -n 's/^  Executable .*(\(.*\))$/\1/p' "$built")
exit "$failed"
