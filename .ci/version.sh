#!/usr/bin/env bash
# Sets the version of the workspace, wherever it is written by hand: `make version V=0.2.0` runs this, then
# `make manifests`, which writes it to the generated files and to Cargo.lock.
set -euo pipefail
cd "$(dirname "$0")/.."

version=${1:-}
number='(0|[1-9][0-9]*)'
# A "+" and what follows it, as Semantic Versioning allows, cannot be in the tag of an image.
if ! [[ $version =~ ^$number\.$number\.$number(-[0-9A-Za-z.-]+)?$ ]]; then
    echo "version: ${version:-nothing} is not a version: pass one such as V=0.2.0 or V=0.2.0-rc.1" >&2
    exit 2
fi

sed -i "0,/^version = / s/^version = .*/version = \"$version\"/" Cargo.toml
sed -i -E "s/^(version|appVersion): .*/\1: $version/" helm/hedgerow/Chart.yaml
# The images of the project, in the files of its services and in examples.
sed -i -E "s#(localhost|registry\.example)/hedgerow/([A-Za-z0-9-]+):[0-9][0-9A-Za-z.-]*#\1/hedgerow/\2:$version#g" \
    services/*/microservice.yaml docs/*.md docs/greeter/microservice.yaml
