#!/bin/sh
# Lists services by name:
#
#     deploy/services.sh            the binaries of this workspace: services whose files have no `hedgerow.dev/command`
#     deploy/services.sh images     those whose images are built here: named localhost/hedgerow/NAME in their files
set -eu
cd "$(dirname "$0")/.."
case ${1:-} in
"") grep -L 'hedgerow.dev/command:' services/*/microservice.yaml | xargs -n 1 dirname | xargs -n 1 basename ;;
images)
    for folder in services/*/; do
        name=$(basename "$folder")
        ! grep -qs "localhost/hedgerow/$name:" "$folder/microservice.yaml" || echo "$name"
    done
    ;;
*) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "$0" >&2 && exit 2 ;;
esac
