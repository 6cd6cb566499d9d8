{{- define "runtime-pool.name" -}}
{{- $name := default .Release.Name .Values.name }}
{{- if gt (len $name) 53 }}
{{- fail (printf "name: %q is longer than 53 characters, which the labels of its Pods allow" $name) }}
{{- end }}
{{- $name }}
{{- end }}

{{- define "runtime-pool.labels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/part-of: kruntimes
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{/* A full image reference from {root, repository, tag, digest}: the registry is added to what names none. */}}
{{- define "runtime-pool.reference" -}}
{{- $image := .repository }}
{{- $first := splitList "/" $image | first }}
{{- $named := and (contains "/" $image) (or (contains "." $first) (contains ":" $first) (eq $first "localhost")) }}
{{- if and .root.Values.image.registry (not $named) }}
{{- $image = printf "%s/%s" (trimSuffix "/" .root.Values.image.registry) $image }}
{{- end }}
{{- if .digest }}
{{- $image = printf "%s@%s" $image .digest }}
{{- else if not (regexMatch "(:[^/]+|@[^/]+)$" $image) }}
{{- $image = printf "%s:%s" $image (default .root.Chart.AppVersion .tag) }}
{{- end }}
{{- $image }}
{{- end }}

{{/* What the schema cannot say, or not in words that help. */}}
{{- define "runtime-pool.check" -}}
{{- if and (eq .Values.server "custom") (not .Values.image.repository) }}
{{- fail "image.repository: server custom takes an image of yours" }}
{{- end }}
{{- if and (ne .Values.server "custom") .Values.command }}
{{- fail (printf "command: server %s has its own; server custom takes one" .Values.server) }}
{{- end }}
{{- if has (int .Values.port) (list 9090 9094) }}
{{- fail (printf "port: %d is one of the sidecar runtimed, in the same Pod" (int .Values.port)) }}
{{- end }}
{{- range $field := list "volumes" "volumeMounts" }}
{{- range index $.Values $field }}
{{- if or (hasPrefix "kruntimes" .name) (hasPrefix "runtimed-" .name) (and (eq $field "volumes") (eq .name "workspace")) }}
{{- fail (printf "%s: the name %s is the controller's own" $field .name) }}
{{- end }}
{{- end }}
{{- end }}
{{- range $field := list "extraContainers" "initContainers" }}
{{- range $container := index $.Values $field }}
{{- range $container.volumeMounts }}
{{- if or (hasPrefix "kruntimes" .name) (hasPrefix "runtimed-" .name) }}
{{- fail (printf "%s: %s mounts %s, which is the controller's own" $field $container.name .name) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- $names := dict "runtime" true "runtimed" true }}
{{- range $field := list "extraContainers" "initContainers" }}
{{- range index $.Values $field }}
{{- if hasKey $names .name }}
{{- fail (printf "%s: the name %s is taken" $field .name) }}
{{- end }}
{{- $_ := set $names .name true }}
{{- end }}
{{- end }}
{{- end }}
