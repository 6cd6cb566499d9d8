{{/*
The rights of each component: what the code does, nothing beside it.

`control` on runs is the verb by which the admission policies know the control plane.
*/}}
{{- define "kruntimes.rules.scheduler" -}}
- apiGroups: [kruntimes.io]
  resources: [runs]
  verbs: [get, list, watch, control]
- apiGroups: [kruntimes.io]
  resources: [runs/status]
  verbs: [patch]
- apiGroups: [kruntimes.io]
  resources: [runtimes, runtimeinstances]
  verbs: [get, list, watch]
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch]
- apiGroups: [""]
  resources: [events]
  verbs: [create, patch]
{{- end }}

{{- define "kruntimes.rules.controller" -}}
# Runs: liveness ends and retries what a lost Pod held, TTL deletes.
- apiGroups: [kruntimes.io]
  resources: [runs]
  verbs: [get, list, watch, delete, control]
- apiGroups: [kruntimes.io]
  resources: [runs/status, runtimes/status]
  verbs: [patch]
- apiGroups: [kruntimes.io]
  resources: [runtimes]
  verbs: [get, list, watch]
# Pods: a lost one is deleted by uid, and pod-deletion-cost is written before a scale down.
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch, patch, delete]
# What a Runtime consists of, by server-side apply, pruned by label.
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [serviceaccounts]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [rbac.authorization.k8s.io]
  resources: [roles, rolebindings]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [events]
  verbs: [create, patch]
# It looks at instances for what Pods offer. The rest are the rights that runtimed gets, which nobody may hand out without having
# them; the policies of kruntimes-crds narrow those to its own Pod.
- apiGroups: [kruntimes.io]
  resources: [runtimeinstances]
  verbs: [get, list, watch, create]
- apiGroups: [kruntimes.io]
  resources: [runtimeinstances/status]
  verbs: [patch]
- apiGroups: [""]
  resources: [pods/status]
  verbs: [patch]
{{- end }}
