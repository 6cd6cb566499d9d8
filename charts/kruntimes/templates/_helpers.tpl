{{- define "kruntimes.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{/* Objects of this release are called so, plus a suffix of at most 20 characters. */}}
{{- define "kruntimes.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 43 | trimSuffix "-" }}
{{- else if contains (include "kruntimes.name" .) .Release.Name }}
{{- .Release.Name | trunc 43 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "kruntimes.name" .) | trunc 43 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "kruntimes.selector" -}}
app.kubernetes.io/name: {{ include "kruntimes.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "kruntimes.labels" -}}
{{ include "kruntimes.selector" . }}
app.kubernetes.io/part-of: kruntimes
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{/* A full image reference from {root, image}: registry and tag are added where the image has none. */}}
{{- define "kruntimes.image" -}}
{{- $image := .image }}
{{- $first := splitList "/" $image | first }}
{{- $named := and (contains "/" $image) (or (contains "." $first) (contains ":" $first) (eq $first "localhost")) }}
{{- if and .root.Values.image.registry (not $named) }}
{{- $image = printf "%s/%s" (trimSuffix "/" .root.Values.image.registry) $image }}
{{- end }}
{{- if not (regexMatch "(:[^/]+|@[^/]+)$" $image) }}
{{- $image = printf "%s:%s" $image (default .root.Chart.AppVersion .root.Values.image.tag) }}
{{- end }}
{{- $image }}
{{- end }}
