#!/bin/sh
# Regenerates or checks the data with which `sqlx::query!` checks queries without a database: the `.sqlx` folder of each
# service that has a folder in `migrations`. Needs a Postgres server:
#
#     hedgerow postgres -- migrations/queries.sh renew|check
set -eu
cd "$(dirname "$0")/.."

command=${1:-}
case $command in
renew | check) ;;
*)
    echo "usage: $0 renew|check" >&2
    exit 2
    ;;
esac

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
failed=0

for migrations in migrations/*/; do
    name=$(basename "$migrations")
    committed=services/$name/.sqlx
    psql -qXc "CREATE DATABASE \"$name\""
    cat "$migrations"*.sql | psql -qX -v ON_ERROR_STOP=1 -d "$name"

    fresh=$scratch/$name
    mkdir "$fresh"
    # The package is compiled anew, because its build.rs watches SQLX_OFFLINE_DIR. Under a setting of its own it has its
    # own artifacts: the usual ones stay as they are.
    DATABASE_URL="${DATABASE_URL%/postgres\?*}/$name?${DATABASE_URL#*\?}" \
        SQLX_OFFLINE=false SQLX_OFFLINE_DIR="$fresh" cargo check --quiet --package "$name" --all-targets \
        --config "profile.dev.package.$name.codegen-units=1"
    [ -n "$(ls "$fresh")" ] || ! grep -rqE '\bquery(_as|_scalar)?!' "services/$name/src" || {
        echo "no query found in services/$name: its build.rs must watch SQLX_OFFLINE_DIR, as that of users does" >&2
        exit 1
    }

    if [ "$command" = renew ]; then
        mkdir -p "$committed"
        rm -f "$committed"/query-*.json
        find "$fresh" -name 'query-*.json' -exec mv {} "$committed" \;
    elif ! diff -r "$committed" "$fresh"; then
        echo "$committed is out of date; run \`make queries\`" >&2
        failed=1
    fi
done
exit "$failed"
