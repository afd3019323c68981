{{/* An image of the project: include "hedgerow.image" (list $ "users") */}}
{{- define "hedgerow.image" -}}
{{- $values := (index . 0).Values.image -}}
{{- if eq $values.tag "latest" }}
{{- fail (printf "image.tag must not be latest, because it does not name a version. Set it to a version such as %s, or leave it empty." (index . 0).Chart.AppVersion) }}
{{- end -}}
{{ $values.registry }}/{{ index . 1 }}:{{ $values.tag | default (index . 0).Chart.AppVersion }}
{{- end }}

{{/* The environment of the operator that decides what it does with an object. */}}
{{- define "hedgerow.operatorEnv" -}}
- {name: INSTALLATION, value: {{ .Values.operator.installation | quote }}}
- {name: DATABASE_SERVER, value: {{ .Values.postgres.adminSecret | quote }}}
{{- if .Values.postgres.bundled.enabled }}
- {name: BUNDLED_SERVER, value: "hedgerow-postgres.{{ .Release.Namespace }}.svc:5432"}
{{- end }}
{{- with include "hedgerow.authentication" . | trim }}
{{ . }}
{{- end }}
- {name: NETWORK_POLICIES, value: {{ .Values.networkPolicy.enabled | quote }}}
- {name: SCRAPE_NAMESPACES, value: {{ join "," .Values.networkPolicy.scrapeNamespaces | quote }}}
- {name: POD_MONITORS, value: {{ .Values.podMonitor.enabled | quote }}}
{{- with .Values.podMonitor.labels }}
{{- $labels := list }}
{{- range $key, $value := . }}{{ $labels = append $labels (printf "%s=%s" $key $value) }}{{ end }}
- {name: POD_MONITOR_LABELS, value: {{ join "," $labels | quote }}}
{{- end }}
- {name: IMAGE_PULL_SECRETS, value: {{ join "," .Values.image.pullSecrets | quote }}}
{{- end }}

{{/* A digest of that and of the operator's image. Objects carry it, so that `--wait` waits until an operator with this
     configuration has acted on them. */}}
{{- define "hedgerow.configuration" -}}
{{ print (include "hedgerow.image" (list . "operator")) (include "hedgerow.operatorEnv" .) | sha256sum | trunc 16 }}
{{- end }}

{{/* The labels that select the pods of a component. They must never change. */}}
{{- define "hedgerow.selector" -}}
app.kubernetes.io/name: hedgerow-{{ . }}
app.kubernetes.io/component: {{ . }}
{{- end }}

{{/* The labels of an object of a component: include "hedgerow.labels" (list $ "operator") */}}
{{- define "hedgerow.labels" -}}
{{- $root := index . 0 -}}
{{ include "hedgerow.selector" (index . 1) }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/part-of: hedgerow
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
helm.sh/chart: {{ $root.Chart.Name }}-{{ $root.Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "hedgerow.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end }}

{{/* Whether services verify tokens: true, or empty. */}}
{{- define "hedgerow.verifies" -}}
{{- if or (eq .Values.auth.mode "required") .Values.auth.issuers }}true{{ end }}
{{- end }}

{{/* The variables of the operator that say who may call services. None if everyone may. */}}
{{- define "hedgerow.authentication" -}}
{{- if include "hedgerow.verifies" . }}
- {name: AUTH, value: {{ .Values.auth.mode }}}
{{- with .Values.auth.issuers }}
- {name: AUTH_ISSUERS, value: {{ toJson . | quote }}}
{{- end }}
{{- if .Values.services.users }}
- {name: AUTH_ISSUER, value: users}
- {name: AUTH_ISSUER_URL, value: {{ include "hedgerow.url" . | quote }}}
{{- end }}
{{- end }}
{{- end }}

{{/* The URL of the gateway as clients see it: auth.url, or the first host in the values, or that of its Service. */}}
{{- define "hedgerow.url" -}}
{{- $ingress := .Values.ingress -}}
{{- $route := .Values.httpRoute -}}
{{- if .Values.auth.url -}}
{{ .Values.auth.url }}
{{- else if and $ingress.enabled $ingress.host (not (hasPrefix "*" $ingress.host)) -}}
{{ $ingress.tlsSecret | empty | ternary "http" "https" }}://{{ $ingress.host }}
{{- else if and $route.enabled $route.hostnames (not (hasPrefix "*" (first $route.hostnames))) -}}
https://{{ first $route.hostnames }}
{{- else -}}
{{- $service := .Values.services.gateway | empty | ternary "users" "gateway" -}}
http://{{ $service }}.{{ .Release.Namespace }}.svc:{{ dig "ports" "http" 8080 (get .Values.services $service) }}
{{- end -}}
{{- end }}

{{/* The ways from outside the cluster to the services of the project, as a JSON list of texts. */}}
{{- define "hedgerow.exposed" -}}
{{- $exposed := list -}}
{{- $own := include "hedgerow.ownServices" . | fromJsonArray -}}
{{- range $name, $spec := .Values.services -}}
{{- $type := dig "service" "type" "ClusterIP" ($spec | default dict) -}}
{{- if and (has $name $own) (ne $type "ClusterIP") -}}
{{- $exposed = append $exposed (printf "services.%s.service.type=%s" $name $type) -}}
{{- end -}}
{{- end -}}
{{- if .Values.ingress.enabled -}}{{- $exposed = append $exposed "ingress.enabled=true" -}}{{- end -}}
{{- if .Values.httpRoute.enabled -}}{{- $exposed = append $exposed "httpRoute.enabled=true" -}}{{- end -}}
{{ toJson $exposed }}
{{- end }}

{{/* Whether pods of the project's services get requests that need no token: true, or empty. Without a cluster, which
     `helm template` does not ask, it is empty. */}}
{{- define "hedgerow.isOpen" -}}
{{- $own := include "hedgerow.ownServices" . | fromJsonArray -}}
{{- range (lookup "v1" "Pod" .Release.Namespace "" | dig "items" list) -}}
{{- $labels := dig "metadata" "labels" (dict) . -}}
{{- $isOwn := has (dig "app.kubernetes.io/name" "" $labels) $own -}}
{{- $serves := eq (dig "app.kubernetes.io/component" "" $labels) "service" -}}
{{- $isManaged := eq (dig "app.kubernetes.io/managed-by" "" $labels) "hedgerow-operator" -}}
{{- $ends := or (hasKey .metadata "deletionTimestamp") (not (has .status.phase (list "Pending" "Running"))) -}}
{{- if and $isOwn $serves $isManaged (not $ends) -}}
{{- range .spec.containers -}}
{{- $required := false -}}
{{- range .env -}}
{{- if and (eq .name "AUTH") (eq (dig "value" "" .) "required") -}}{{- $required = true -}}{{- end -}}
{{- end -}}
{{- if not $required -}}true{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/* Whether clients from outside the cluster are let in already: true, or empty. */}}
{{- define "hedgerow.wasExposed" -}}
{{- $namespace := .Release.Namespace -}}
{{- range include "hedgerow.ownServices" . | fromJsonArray -}}
{{- if ne (lookup "v1" "Service" $namespace . | dig "spec" "type" "ClusterIP") "ClusterIP" -}}true{{- end -}}
{{- end -}}
{{- if lookup "networking.k8s.io/v1" "Ingress" $namespace "hedgerow" -}}true{{- end -}}
{{- if .Capabilities.APIVersions.Has "gateway.networking.k8s.io/v1/HTTPRoute" -}}
{{- if lookup "gateway.networking.k8s.io/v1" "HTTPRoute" $namespace "hedgerow" -}}true{{- end -}}
{{- end -}}
{{- end }}

{{/* What the `restricted` Pod Security Standard requires of a pod, and the user of the images. */}}
{{- define "hedgerow.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{/* What the standard requires of a container. */}}
{{- define "hedgerow.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* The annotations of an object of `helm test`. Objects are created in the order of their weight. */}}
{{- define "hedgerow.testHook" -}}
helm.sh/hook: test
helm.sh/hook-weight: {{ . | quote }}
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
{{- end }}

{{/* The annotations of an object of the CRD upgrade. Objects are created in the order of their weight. */}}
{{- define "hedgerow.crdHook" -}}
helm.sh/hook: pre-install,pre-upgrade
helm.sh/hook-weight: {{ . | quote }}
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded,hook-failed
{{- end }}

{{/* Who may log in to the bundled Postgres: the user postgres of its container, over the Unix socket, and everyone else
with a password. */}}
{{- define "hedgerow.pgHba" -}}
# TYPE DATABASE    USER     ADDRESS METHOD
local  all         postgres         peer
local  replication postgres         peer
host   all         all      all     scram-sha-256
{{- end }}

{{/* The bytes of a quantity. The API server may store another form: 1536Mi for 1.5Gi. */}}
{{- define "hedgerow.bytes" -}}
{{- $units := dict "m" 0.001 "" 1 "k" 1000 "M" 1000000 "G" 1000000000 "T" 1000000000000 "P" 1000000000000000 "E" 1000000000000000000 }}
{{- $units = merge $units (dict "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 "Pi" 1125899906842624 "Ei" 1152921504606846976) }}
{{- round (mulf (regexFind "^[0-9.]+" .) (get $units (regexFind "[A-Za-z]*$" .))) 0 -}}
{{- end }}

{{/* The error for another size: the present one, the new one, the namespace, the new size, the namespace, the present size. */}}
{{- define "hedgerow.storageSizeChanged" -}}
postgres.bundled.storage.size cannot be changed from %s to %s by an upgrade alone, because a StatefulSet cannot change it.
If the StorageClass allows volume expansion, run

  kubectl --namespace %s patch pvc data-hedgerow-postgres-0 --patch '{"spec":{"resources":{"requests":{"storage":"%s"}}}}'
  kubectl --namespace %s delete statefulset hedgerow-postgres --cascade=orphan

and upgrade again: the pod and its volume stay. Otherwise, and to make the volume smaller, set the value back to %s.
{{- end }}
