#!/bin/sh
# Installs, where it is missing, what Hedgerow needs beside Rust:
#   postgres   the server that `hedgerow` runs copies of, found by the same rule as `crates/embedded-postgres` does
#   promtool   Prometheus' own check of /metrics, for a test
# No system-wide cluster or server is made or started.
set -eu

what=$1

is_installed() {
    case $what in
    postgres)
        for server in "$(command -v postgres || true)" /usr/lib/postgresql/*/bin/postgres; do
            [ -x "$server" ] && [ -x "$(dirname "$(readlink -f "$server")")/initdb" ] && return
        done
        return 1
        ;;
    promtool) command -v promtool >/dev/null ;;
    esac
}

install() {
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    case $what in
    postgres)
        # Debian's package makes and starts a cluster unless told not to; what is said here is for this time only.
        told=/etc/postgresql-common/createcluster.d/hedgerow.conf
        trap 'rm -f "$told"' EXIT
        mkdir -p "$(dirname "$told")"
        echo 'create_main_cluster = off' >"$told"
        apt-get install -qq --no-install-recommends postgresql </dev/null
        ;;
    promtool)
        # Debian's package starts a server: the tool alone is taken out of it.
        folder=$(mktemp -d)
        trap 'rm -rf "$folder"' EXIT
        (cd "$folder" && apt-get download -qq -o APT::Sandbox::User=root prometheus && dpkg -x prometheus_*.deb .)
        cp "$folder/usr/bin/promtool" /usr/local/bin/
        ;;
    esac
}

case $what in
postgres) by_hand='install its server (postgres, initdb, psql) and put it on PATH' ;;
promtool) by_hand='take it from a release of Prometheus and put it on PATH' ;;
esac

if is_installed; then
    exit 0
elif ! command -v apt-get >/dev/null; then
    echo "$what is not installed: $by_hand." >&2
    exit 1
elif [ "$(id -u)" -eq 0 ]; then
    echo "$what is not installed: installing it."
    install
elif command -v sudo >/dev/null; then
    exec sudo "$0" "$what"
else
    echo "$what is not installed: run \`$0 $what\` as root, or $by_hand." >&2
    exit 1
fi
