{{- define "kruntimes-crds.labels" -}}
app.kubernetes.io/name: kruntimes
app.kubernetes.io/part-of: kruntimes
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{/* The binding of a validating policy: {name, root}. */}}
{{- define "kruntimes-crds.binding" -}}
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata:
  name: {{ .name }}
  labels:
    {{- include "kruntimes-crds.labels" .root | nindent 4 }}
spec:
  policyName: {{ .name }}
  validationActions:
    {{- toYaml .root.Values.policies.validationActions | nindent 4 }}
{{- end }}

{{/*
Who asks, as variables of a policy. A token that the kubelet put into a Pod names that Pod; nobody else's request has these words, and
nobody can put them there but a holder of the right to impersonate them.
*/}}
{{- define "kruntimes-crds.who" -}}
- name: pod
  expression: request.userInfo.?extra[?'authentication.kubernetes.io/pod-name'][?0].orValue('')
- name: podUID
  expression: request.userInfo.?extra[?'authentication.kubernetes.io/pod-uid'][?0].orValue('')
- name: fromOwnNamespace
  expression: request.userInfo.username.startsWith('system:serviceaccount:' + request.namespace + ':')
- name: who
  expression: >-
    variables.pod == '' ? 'user ' + request.userInfo.username : 'pod ' + variables.pod + ' (' + variables.podUID + ')'
{{- end }}

{{/*
Whether it is the control plane that asks: a right, the verb `control` on runs, and not a name, so that any number of releases and a
human administrator are known alike. Not asked for where a variable or condition before it has decided.
*/}}
{{- define "kruntimes-crds.is-control-plane" -}}
authorizer.group('kruntimes.io').resource('runs').namespace(request.namespace).check('control').allowed()
{{- end }}

{{/* The list at a path of CEL; absent and null are empty. */}}
{{- define "kruntimes-crds.list" -}}
(has({{ . }}) && {{ . }} != null ? {{ . }} : [])
{{- end }}
