#!/bin/sh
# Installs what Hedgerow needs besides Rust, if it is missing:
#   postgres   the server that `hedgerow` runs; it is looked for in the same places as in `crates/embedded-postgres`
#   promtool   the checker for the format of /metrics, for a test
# Creates no system-wide database cluster and starts no server.
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
        # Keeps Debian's package from creating and starting a cluster, for this installation only.
        config=/etc/postgresql-common/createcluster.d/hedgerow.conf
        trap 'rm -f "$config"' EXIT
        mkdir -p "$(dirname "$config")"
        echo 'create_main_cluster = off' >"$config"
        apt-get install -qq --no-install-recommends postgresql </dev/null
        ;;
    promtool)
        # Debian's package would start a server, so extract only the tool.
        folder=$(mktemp -d)
        trap 'rm -rf "$folder"' EXIT
        (cd "$folder" && apt-get download -qq -o APT::Sandbox::User=root prometheus && dpkg -x prometheus_*.deb .)
        cp "$folder/usr/bin/promtool" /usr/local/bin/
        ;;
    esac
}

case $what in
postgres) by_hand='install the Postgres server (15 or later) and psql, and put postgres, initdb and psql on PATH' ;;
promtool) by_hand='get it from a release of Prometheus and put it on PATH' ;;
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
