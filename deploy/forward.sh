#!/usr/bin/env bash
# Forwards local ports to services in the current kube context, until Ctrl-C. When a pod terminates, its port is
# forwarded to another pod; `kubectl port-forward` alone would exit.
#
#     deploy/forward.sh SERVICE:PORT...
#
# NAMESPACE is the namespace, by default that of the context.
set -uo pipefail

[ $# -gt 0 ] || { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0" >&2; exit 2; }
where=()
[ -z "${NAMESPACE:-}" ] || where=(--namespace "$NAMESPACE")
trap 'kill $(jobs -p) 2>/dev/null' EXIT
trap exit INT TERM

# Prints a running pod of a service that is not terminating.
pod_of() { # SERVICE
    kubectl get pods ${where[@]+"${where[@]}"} --field-selector=status.phase=Running \
        --selector="app.kubernetes.io/name=$1,app.kubernetes.io/component=service" --output=go-template='{{range .items}}
            {{- if not .metadata.deletionTimestamp}}{{.metadata.name}}{{"\n"}}{{end}}{{end}}' | head -n 1
}

keep() { # SERVICE PORT
    local pod forward='' watch=''
    trap 'kill $forward $watch 2>/dev/null; exit' TERM
    while true; do
        pod=$(pod_of "$1")
        if [ -n "$pod" ]; then
            kubectl port-forward ${where[@]+"${where[@]}"} "pod/$pod" "$2:http" >/dev/null &
            forward=$!
            # A terminating pod keeps serving for some seconds, which is enough time to switch to another pod.
            kubectl wait ${where[@]+"${where[@]}"} "pod/$pod" --for=jsonpath='{.metadata.deletionTimestamp}' \
                --timeout=24h >/dev/null 2>&1 &
            watch=$!
            wait -n $forward $watch
            kill $forward $watch 2>/dev/null
            wait $forward $watch 2>/dev/null
        fi
        sleep 0.5
    done
}

for target in "$@"; do
    keep "${target%%:*}" "${target##*:}" &
    echo "http://127.0.0.1:${target##*:} forwards to ${target%%:*}"
done
wait
