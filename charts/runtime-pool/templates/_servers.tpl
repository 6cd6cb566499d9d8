{{/*
The Runtime Servers that come with the project: image, port, arguments, and what `helm test` runs in them. A further one is an entry here
and a word in values.schema.json.
*/}}
{{- define "runtime-pool.servers" -}}
bash:
  image: kruntimes/bash-server
  port: 9091
  args: [--work-dir=/workspace]
  portFlag: --port
  test: [-c, 'echo "runtime $KRUNTIME_RUNTIME: run $KRUNTIME_RUN_NAME works"']
python:
  image: kruntimes/python-server
  port: 9091
  args: [--work-dir=/workspace]
  portFlag: --port
  test: [-c, 'import os; print("run", os.environ["KRUNTIME_RUN_NAME"], "works")']
custom:
  image: ""
  port: 9091
  args: []
  portFlag: ""
  test: []
{{- end }}

{{/* The entry of the chosen server. */}}
{{- define "runtime-pool.server" -}}
{{- index (include "runtime-pool.servers" . | fromYaml) .Values.server | toYaml }}
{{- end }}
