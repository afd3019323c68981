#!/bin/sh
# Installs a Postgres server where there is none, for `hedgerow` to run copies of. No system-wide cluster is made
# or started. Does nothing where one is found, by the same rule as `services/embedded-postgres`.
set -eu

for server in "$(command -v postgres || true)" /usr/lib/postgresql/*/bin/postgres; do
    [ -x "$server" ] && [ -x "$(dirname "$(readlink -f "$server")")/initdb" ] && exit 0
done

if ! command -v apt-get >/dev/null; then
    echo "Postgres is not installed: install its server (\`postgres\`, \`initdb\`, \`psql\`) and put it on PATH." >&2
    exit 1
fi
if [ "$(id -u)" -eq 0 ]; then
    as_root=
elif command -v sudo >/dev/null; then
    as_root=sudo
else
    echo "Postgres is not installed: run \`apt-get install postgresql\` as root." >&2
    exit 1
fi

echo "Postgres is not installed: installing the package \`postgresql\`, without a system-wide cluster."
# Debian's package makes and starts a cluster unless told not to; what is said here is for this time only.
# shellcheck disable=SC2086 # empty for root
$as_root sh -eu <<'SH'
told=/etc/postgresql-common/createcluster.d/hedgerow.conf
trap 'rm -f "$told"' EXIT
mkdir -p "$(dirname "$told")"
echo 'create_main_cluster = off' >"$told"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -qq --no-install-recommends postgresql </dev/null
SH
