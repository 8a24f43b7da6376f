{{/* The container that exports the metrics of a Valkey node. Takes the root. */}}
{{- define "ojs.valkey.exporter" -}}
{{- $exporter := .Values.valkey.exporter -}}
- name: exporter
  image: {{ include "ojs.image" (dict "image" $exporter.image "tag" "") }}
  imagePullPolicy: {{ $exporter.image.pullPolicy }}
  securityContext:
    {{- include "ojs.securityContext" (dict "root" . "context" .Values.securityContext) | nindent 4 }}
  resources:
    {{- toYaml $exporter.resources | nindent 4 }}
  ports:
    - name: metrics
      containerPort: 9121
      protocol: TCP
  env:
    - name: REDIS_ADDR
      value: {{ ternary "rediss" "redis" (ne (include "ojs.valkey.tlsSecret" .) "") }}://localhost:6379
    {{- if include "ojs.valkey.tlsSecret" . }}
    # It connects inside the pod, by a name that the certificate does not have.
    - name: REDIS_EXPORTER_SKIP_TLS_VERIFICATION
      value: "true"
    {{- end }}
    {{- if or .Values.redis.password .Values.redis.existingSecret.passwordKey }}
    - name: REDIS_PASSWORD
      {{- include "ojs.redisPasswordFrom" . | nindent 6 }}
    {{- end }}
  # The exporter answers without its node too: its failure must not restart the node.
  livenessProbe:
    httpGet:
      path: /health
      port: metrics
    periodSeconds: 10
    timeoutSeconds: 5
    failureThreshold: 6
{{- end -}}

{{/* The label matchers of the bundled nodes in a query, without braces. */}}
{{- define "ojs.valkey.series" -}}
{{- printf "namespace=%q,pod=~%q" .Release.Namespace (printf "%s-valkey-[0-9]+" (include "ojs.fullname" .)) -}}
{{- end -}}

{{/* Alerts about the bundled nodes, based on their exporter. Takes the root. */}}
{{- define "ojs.valkey.rules" -}}
{{- $rules := .Values.metrics.prometheusRule -}}
{{- $sel := printf "{%s}" (include "ojs.valkey.series" .) -}}
- alert: OjsValkeyDown
  expr: >-
    min by (pod) (redis_up{{ $sel }}) == 0
  for: 1m
  labels:
    severity: critical
  annotations:
    summary: A node of the bundled Valkey does not answer.
    description: >-
      {{`{{ $labels.pod }}`}}. A replica serves its shards; without a replica they answer 503. See the logs of the pod.
- alert: OjsValkeyMemory
  expr: >-
    max by (pod) (redis_memory_used_bytes{{ $sel }} / (redis_memory_max_bytes{{ $sel }} > 0)) > {{ $rules.valkeyMemoryRatio }}
  for: 5m
  labels:
    severity: warning
  annotations:
    summary: A node of the bundled Valkey is nearly full.
    description: >-
      {{`{{ $labels.pod }}`}} uses {{`{{ $value | humanizePercentage }}`}} of its maxmemory. At 100 % enqueues are refused. Raise valkey.maxmemory, or drain queues.
- alert: OjsValkeyReplication
  expr: >-
    min by (pod) (redis_master_link_up{{ $sel }}) == 0
    or max by (pod) (redis_connected_slave_lag_seconds{{ $sel }}) > {{ $rules.valkeyLagSeconds }}
  for: 5m
  labels:
    severity: warning
  annotations:
    summary: A replica of the bundled Valkey lags behind or is disconnected from its master.
    description: >-
      {{`{{ $labels.pod }}`}}. If its master fails now, jobs are lost. Check the network and the load of both nodes.
- alert: OjsValkeyDisk
  expr: >-
    min by (pod) (redis_aof_last_write_status{{ $sel }}) == 0
    or min by (pod) (redis_aof_last_bgrewrite_status{{ $sel }}) == 0
  for: 1m
  labels:
    severity: critical
  annotations:
    summary: A node of the bundled Valkey cannot write its AOF.
    description: >-
      {{`{{ $labels.pod }}`}}. Its disk is full or has failed: a crash of the process loses acknowledged jobs.
{{- end -}}
