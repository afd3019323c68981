#!/usr/bin/env bash
# Runs the unit tests of the crates that changed since BASE: by default the point where this branch left main, or on
# main itself the last commit. Files that are not committed count as changed.
set -euo pipefail
cd "$(dirname "$0")/.."

base=${BASE:-$(git merge-base HEAD main 2>/dev/null || git rev-parse HEAD)}
packages=()
while read -r file; do
    folder=$(dirname "$file")
    while [ "$folder" != . ] && [ ! -f "$folder/Cargo.toml" ]; do
        folder=$(dirname "$folder")
    done
    [ "$folder" != . ] || continue
    packages+=(--package "$(sed -n '0,/^name = / s/^name = "\(.*\)"/\1/p' "$folder/Cargo.toml")")
done < <({ git diff --name-only "$base"; git ls-files --others --exclude-standard; } | grep -E '\.(rs|toml|sql|proto|json|yaml|snap)$' |
    xargs -r dirname | sort -u | sed 's|$|/_|')

if [ ${#packages[@]} -eq 0 ]; then
    echo "No crate has changed since $(git rev-parse --short "$base")."
    exit
fi
mapfile -t names < <(printf '%s\n' "${packages[@]}" | grep -vx -- --package | sort -u)
echo "Unit tests of ${names[*]}, changed since $(git rev-parse --short "$base")."
mapfile -t arguments < <(printf -- '--package\n%s\n' "${names[@]}")
cargo test "${arguments[@]}" --lib --bins
