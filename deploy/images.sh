#!/usr/bin/env bash
# Builds the container images with docker, podman or buildah, whichever works. Most come from one static release build;
# a service with its own Dockerfile is built from that.
#
#     deploy/images.sh [build]            build the images
#     deploy/images.sh save FOLDER        save them as FOLDER/SERVICE.tar, for `kind load image-archive`
#     deploy/images.sh list               list the images
#     deploy/images.sh compile FOLDER     only compile the binaries and the CA bundle, into FOLDER
#
# Images are named IMAGE_REGISTRY/SERVICE:IMAGE_TAG; the defaults are localhost/hedgerow and the version of the
# workspace. HEDGEROW_REVISION is the revision that they report, by default that of git. IMAGE_SERVICES lists the
# services to build. The same commit, compiler and folder produce the same bytes,
# unless an image has its own Dockerfile.
set -euo pipefail
cd "$(dirname "$0")/.."

# The maximum size of an image from the release build, in bytes.
LIMIT=40000000

read -ra services <<<"${IMAGE_SERVICES:-$(deploy/services.sh images | tr '\n' ' ') operator e2e}"
# Those of the release build.
binaries=()
for service in "${services[@]}"; do
    [ -f "services/$service/Dockerfile" ] || binaries+=("$service")
done
registry=${IMAGE_REGISTRY:-localhost/hedgerow}
version=$(sed -n '0,/^version = / s/^version = "\(.*\)"/\1/p' Cargo.toml)
tag=${IMAGE_TAG:-$version}
revision=${HEDGEROW_REVISION:-$(git describe --always --dirty --abbrev=12 2>/dev/null || echo unknown)}
target=${CARGO_TARGET_DIR:-target}

fail() { echo "images: $*" >&2 && exit 1; }
image() { echo "$registry/$1:$tag"; }

# `info` fails if the docker daemon does not run.
find_tool() {
    for tool in docker podman buildah; do
        command -v "$tool" >/dev/null && "$tool" info >/dev/null 2>&1 && return
    done
    fail "no working docker, podman or buildah was found: install one, or start the docker daemon"
}

# Links glibc statically. Its resolver handles the search domains of a pod like any other program. With --target, the
# flags do not invalidate the artifacts of other builds.
compile() {
    [ "$(uname -s)" = Linux ] || fail "only Linux can build the binaries: elsewhere, use deploy/Dockerfile with Docker"
    local host packages=()
    host=$(rustc -vV | sed -n 's/^host: //p')
    mapfile -t packages < <(printf -- '--package\n%s\n' ca-bundle "${binaries[@]}")
    RUSTFLAGS="-C target-feature=+crt-static" cargo build --release --locked --target "$host" "${packages[@]}"
    mkdir -p "$1"
    "$target/$host/release/ca-bundle" >"$1/ca-certificates.crt"
    for service in "${binaries[@]}"; do
        cp "$target/$host/release/$service" "$1"
        [ "$(cat "$1/$service" "$1/ca-certificates.crt" | wc -c)" -le $LIMIT ] || fail "$service is larger than $LIMIT bytes"
    done
}

build() {
    find_tool
    local service context=$target/images epoch timestamp=() options size
    epoch=$(git log -1 --format=%ct 2>/dev/null || echo 0)
    # The binaries of an earlier build do not belong to this one.
    rm -rf "$context"
    if [ ${#binaries[@]} -gt 0 ]; then
        compile "$context"
        find "$context" -exec touch --date "@$epoch" {} +
    fi
    case $tool in
    docker) export SOURCE_DATE_EPOCH=$epoch ;;
    *) timestamp=(--timestamp "$epoch") ;;
    esac
    for service in "${services[@]}"; do
        options=(--file deploy/Dockerfile --target prebuilt --build-arg SERVICE="$service" --build-arg REVISION="$revision" "$context")
        [ ! -f "services/$service/Dockerfile" ] || options=("services/$service")
        "$tool" build --quiet "${timestamp[@]}" \
            --label org.opencontainers.image.title="Hedgerow $service" \
            --label org.opencontainers.image.version="$version" \
            --label org.opencontainers.image.revision="$revision" \
            --label org.opencontainers.image.licenses=Apache-2.0 \
            --tag "$(image "$service")" "${options[@]}" >/dev/null
        size=$(du --apparent-size -h "$context/$service" 2>/dev/null | cut -f 1) || true
        echo "$(image "$service")${size:+ $size}"
    done
}

save() {
    find_tool
    mkdir -p "$1"
    for service in "${services[@]}"; do
        rm -f "$1/$service.tar"
        case $tool in
        buildah) buildah push --quiet "$(image "$service")" "docker-archive:$1/$service.tar:$(image "$service")" ;;
        *) "$tool" save --output "$1/$service.tar" "$(image "$service")" ;;
        esac
    done
}

case ${1:-build} in
build) build ;;
list) for service in "${services[@]}"; do image "$service"; done ;;
save | compile) "$1" "${2:?FOLDER is missing}" ;;
*) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0" >&2 && exit 2 ;;
esac
