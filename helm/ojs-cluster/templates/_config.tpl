{{/* The address of Redis: the value, or the first nodes of the bundled cluster. */}}
{{- define "ojs.redisUrl" -}}
{{- if .Values.valkey.enabled -}}
{{- $name := printf "%s-valkey" (include "ojs.fullname" .) -}}
{{- $nodes := list -}}
{{- $scheme := ternary "rediss" "redis" (ne .Values.valkey.tls.existingSecret "") -}}
{{- range $i := until 3 -}}
{{- $nodes = append $nodes (printf "%s://%s-%d.%s:6379" $scheme $name $i $name) -}}
{{- end -}}
{{- join "," $nodes -}}
{{- else -}}
{{- .Values.redis.url -}}
{{- end -}}
{{- end -}}

{{/*
The entries of the chart's Secret, without those in Secrets of the user. They are encoded here: entries of
`stringData` would stay in the cluster after an upgrade removes them.
*/}}
{{- define "ojs.secretData" -}}
{{- with include "ojs.redisUrl" . }}
redis-url: {{ . | b64enc }}
{{- end }}
{{- with .Values.redis.password }}
redis-password: {{ . | b64enc }}
{{- end }}
{{- with .Values.auth.apiKey }}
api-key: {{ . | b64enc }}
{{- end }}
{{- with .Values.auth.extraApiKeys }}
extra-api-keys: {{ join "," . | b64enc }}
{{- end }}
{{- end -}}

{{/* The entries of the ConfigMap. Pods restart when these change, not when its labels change. */}}
{{- define "ojs.configData" -}}
{{- if not (hasKey .Values.config "OJS_HOST") }}
# Listens on IPv4 and IPv6: pods may have either.
OJS_HOST: "::"
{{- end }}
OJS_PORT: {{ .Values.api.port | quote }}
OJS_WORKERS: {{ .Values.api.workers | quote }}
OJS_SCHEDULER_PORT: {{ .Values.scheduler.port | quote }}
OJS_SHUTDOWN_TIMEOUT: {{ printf "%ds" (int64 .Values.api.drain.timeoutSeconds) | quote }}
{{- if .Values.metrics.open }}
OJS_METRICS_OPEN: "true"
{{- end }}
{{- if .Values.ui.enabled }}
OJS_UI: {{ .Values.ui.mode | quote }}
{{- with .Values.ui.base }}
OJS_UI_BASE: {{ . | quote }}
{{- end }}
{{- with .Values.ui.proxy.userHeader }}
OJS_UI_PROXY_USER: {{ . | quote }}
{{- end }}
{{- with .Values.ui.proxy.groupsHeader }}
OJS_UI_PROXY_GROUPS: {{ . | quote }}
{{- end }}
{{- with .Values.ui.proxy.roles }}
OJS_UI_PROXY_ROLES: {{ . | quote }}
{{- end }}
{{- end }}
{{- if .Values.auth.allowInsecure }}
OJS_ALLOW_INSECURE_NO_AUTH: "true"
{{- if not (hasKey .Values.config "OJS_ALLOWED_HOSTS") }}
{{- $hosts := list (printf "%s.%s" (include "ojs.fullname" .) .Release.Namespace) }}
{{- if .Values.ingress.enabled }}
{{- range .Values.ingress.hosts }}
{{- $hosts = append $hosts .host }}
{{- end }}
{{- end }}
{{- if .Values.httpRoute.enabled }}
{{- $hosts = concat $hosts .Values.httpRoute.hostnames }}
{{- end }}
OJS_ALLOWED_HOSTS: {{ join "," $hosts | quote }}
{{- end }}
{{- end }}
{{- with .Values.redis.username }}
OJS_REDIS_USERNAME: {{ . | quote }}
{{- end }}
{{- if include "ojs.valkey.tlsSecret" . }}
OJS_REDIS_TLS_CA: {{ printf "/etc/ojs/redis-tls/%s" .Values.valkey.tls.caKey | quote }}
{{- end }}
{{- with .Values.redis.tls }}
{{- if .existingSecret }}
OJS_REDIS_TLS_CA: {{ printf "/etc/ojs/redis-tls/%s" .caKey | quote }}
{{- if .certKey }}
OJS_REDIS_TLS_CERT: {{ printf "/etc/ojs/redis-tls/%s" .certKey | quote }}
OJS_REDIS_TLS_KEY: {{ printf "/etc/ojs/redis-tls/%s" .keyKey | quote }}
{{- end }}
{{- end }}
{{- end }}
{{- range $name, $value := .Values.config }}
{{ $name }}: {{ if kindIs "float64" $value }}{{ int64 $value | quote }}{{ else }}{{ $value | quote }}{{ end }}
{{- end }}
{{- end -}}

{{/* Variables from Secrets. Takes the root. */}}
{{- define "ojs.redisEnv" -}}
{{- $secret := include "ojs.fullname" . -}}
{{- $existing := .Values.redis.existingSecret -}}
- name: REDIS_URL
  valueFrom:
    secretKeyRef:
      {{- if include "ojs.redisUrl" . }}
      name: {{ $secret }}
      key: redis-url
      {{- else }}
      name: {{ $existing.name }}
      key: {{ $existing.urlKey }}
      {{- end }}
{{- if or .Values.redis.password $existing.passwordKey }}
- name: OJS_REDIS_PASSWORD
  {{- include "ojs.redisPasswordFrom" . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "ojs.redisPasswordFrom" -}}
valueFrom:
  secretKeyRef:
    {{- if .Values.redis.password }}
    name: {{ include "ojs.fullname" . }}
    key: redis-password
    {{- else }}
    name: {{ .Values.redis.existingSecret.name }}
    key: {{ .Values.redis.existingSecret.passwordKey }}
    {{- end }}
{{- end -}}

{{- define "ojs.keyEnv" -}}
{{- $secret := include "ojs.fullname" . -}}
{{- $existing := .Values.auth.existingSecret -}}
{{- if or .Values.auth.apiKey $existing.name }}
- name: OJS_API_KEY
  valueFrom:
    secretKeyRef:
      name: {{ $existing.name | default $secret }}
      key: {{ ternary $existing.apiKeyKey "api-key" (ne $existing.name "") }}
{{- end }}
{{- if or .Values.auth.extraApiKeys (and $existing.name $existing.extraApiKeysKey) }}
- name: OJS_API_KEYS
  valueFrom:
    secretKeyRef:
      name: {{ $existing.name | default $secret }}
      key: {{ ternary $existing.extraApiKeysKey "extra-api-keys" (ne $existing.name "") }}
{{- end }}
{{- end -}}

{{/* All keys, in variables and in the mounted file. */}}
{{- define "ojs.allKeysEnv" -}}
{{- include "ojs.keyEnv" . -}}
{{- with .Values.auth.keysFile }}
{{- if .existingSecret }}
- name: OJS_API_KEYS_FILE
  value: /etc/ojs/keys/{{ .key }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Variables of the API only: keys, the paths of its certificate, and the OpenID provider of the dashboard. */}}
{{- define "ojs.apiEnv" -}}
{{- include "ojs.allKeysEnv" . -}}
{{- with .Values.tls }}
{{- if .existingSecret }}
- name: OJS_TLS_CERT
  value: /etc/ojs/tls/{{ .certKey }}
- name: OJS_TLS_KEY
  value: /etc/ojs/tls/{{ .keyKey }}
{{- end }}
{{- end }}
{{- with .Values.ui.oidc }}
{{- if and .issuer $.Values.ui.enabled }}
- name: OJS_UI_OIDC_ISSUER
  value: {{ .issuer | quote }}
- name: OJS_UI_OIDC_CLIENT_ID
  value: {{ .clientId | quote }}
- name: OJS_UI_OIDC_CLIENT_SECRET
  valueFrom:
    secretKeyRef:
      name: {{ .existingSecret.name }}
      key: {{ .existingSecret.key }}
- name: OJS_UI_OIDC_REDIRECT_URL
  value: {{ .redirectUrl | quote }}
- name: OJS_UI_OIDC_ROLES
  value: {{ .roles | quote }}
{{- end }}
{{- end }}
{{- end -}}

{{/* The URL of the Service, with "http" or "https". */}}
{{- define "ojs.serviceHost" -}}
{{- printf "%s.%s.svc" (include "ojs.fullname" .) .Release.Namespace -}}
{{- end -}}

{{- define "ojs.scheme" -}}
{{- ternary "https" "http" (ne .Values.tls.existingSecret "") -}}
{{- end -}}

{{/*
Ports of Redis as a JSON list: `networkPolicy.redisPorts`, or those of the URL (always for the bundled Valkey),
or 6379.
*/}}
{{- define "ojs.redisPorts" -}}
{{- $ports := list -}}
{{- if and .Values.networkPolicy.redisPorts (not .Values.valkey.enabled) -}}
{{- $ports = .Values.networkPolicy.redisPorts -}}
{{- else -}}
{{- /* Split at whole URLs first, as the server does: a password may contain commas. */ -}}
{{- range splitList " " (regexReplaceAll ",(rediss?://)" (include "ojs.redisUrl" . | trim) " ${1}") -}}
{{- $authority := regexReplaceAll "[/?].*$" (regexReplaceAll "^[a-z]+://" . "") "" -}}
{{- range splitList "," (regexReplaceAll "^.*@" $authority "") -}}
{{- $port := regexFind ":[0-9]+$" . -}}
{{- $ports = append $ports (int (default "6379" (trimPrefix ":" $port))) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $ports | uniq | toJson -}}
{{- end -}}

{{/* The port of the trace endpoint, empty when none is configured. */}}
{{- define "ojs.otlpPort" -}}
{{- $url := default (get .Values.config "OTEL_EXPORTER_OTLP_ENDPOINT") (get .Values.config "OJS_OTEL_ENDPOINT") -}}
{{- if $url -}}
{{- $address := regexReplaceAll "/.*$" (regexReplaceAll "^[a-z]+://" $url "") "" -}}
{{- $port := regexFind ":[0-9]+$" $address | trimPrefix ":" -}}
{{- default (ternary "443" "80" (hasPrefix "https://" $url)) $port -}}
{{- end -}}
{{- end -}}

{{/*
The number of API pods; empty leaves it to the scaler.

If a manifest has no `replicas` and the previous one had it, Kubernetes sets 1, unless another field manager owns
the field by then. If it has `replicas` after a scaler has set the field, upgrades and rollbacks fail with a
conflict. So the release that switches a scaler on keeps the current number. The first release after the scaler's
first decision leaves `replicas` out, as do all later ones. Without server-side apply (Helm 3) fields have no
owners: there a manifest keeps `replicas` if an earlier one had it. `helm template` cannot read the cluster.
*/}}
{{- define "ojs.api.replicas" -}}
{{- if or .Values.api.autoscaling.enabled .Values.api.keda.enabled -}}
{{- with lookup "apps/v1" "Deployment" .Release.Namespace (printf "%s-api" (include "ojs.fullname" .)) -}}
{{- if not (hasKey (.metadata.annotations | default dict) (include "ojs.scaledAnnotation" $)) -}}
{{- $scaled := false -}}
{{- $applied := false -}}
{{- range .metadata.managedFields -}}
{{- if eq (default "" .subresource) "scale" -}}
{{- $scaled = true -}}
{{- else if and (eq .operation "Apply") (not .subresource) -}}
{{- $applied = true -}}
{{- end -}}
{{- end -}}
{{- if not (and $scaled $applied) -}}
{{- int64 .spec.replicas -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- else -}}
{{- .Values.api.replicas -}}
{{- end -}}
{{- end -}}

{{/* Annotation of a Deployment without `replicas`: later manifests leave it out too. */}}
{{- define "ojs.scaledAnnotation" -}}ojs-cluster/count-is-scaled{{- end -}}

{{/* Seconds from deletion to SIGKILL. The server's own timeout ends earlier. */}}
{{- define "ojs.api.graceSeconds" -}}
{{- $drain := .Values.api.drain -}}
{{- $least := add $drain.preStopSeconds $drain.timeoutSeconds $drain.flushSeconds -}}
{{- $named := .Values.api.terminationGracePeriodSeconds -}}
{{- if kindIs "invalid" $named -}}
{{- $least -}}
{{- else if lt (int64 $named) $least -}}
{{- fail (printf "api.terminationGracePeriodSeconds is %d, but a pod needs %d to drain: api.drain.preStopSeconds (%d) + timeoutSeconds (%d) + flushSeconds (%d). Leave it null to derive it." (int64 $named) $least (int64 $drain.preStopSeconds) (int64 $drain.timeoutSeconds) (int64 $drain.flushSeconds)) -}}
{{- else -}}
{{- int64 $named -}}
{{- end -}}
{{- end -}}

{{/* The longest long poll in seconds. tests/helm compares it with the server. */}}
{{- define "ojs.longestPollSeconds" -}}20{{- end -}}

{{/* Refuses contradictions that a schema cannot express. */}}
{{- define "ojs.validate" -}}
{{- $redis := .Values.redis -}}
{{- $auth := .Values.auth -}}
{{- $drain := .Values.api.drain -}}
{{- if and $redis.url .Values.valkey.enabled -}}
{{- fail "redis.url and valkey.enabled exclude each other: set the URL of your Redis, or run the bundled Valkey." -}}
{{- end -}}
{{- if and .Values.valkey.enabled (or $redis.username $redis.tls.existingSecret) -}}
{{- fail "redis.username and redis.tls are for your own Redis. The bundled Valkey has no ACL users; its TLS is valkey.tls." -}}
{{- end -}}
{{- if and $redis.existingSecret.name (not (or $redis.existingSecret.urlKey $redis.existingSecret.passwordKey)) -}}
{{- fail "redis.existingSecret.name is set: set urlKey or passwordKey too." -}}
{{- end -}}
{{- if and (or $redis.existingSecret.urlKey $redis.existingSecret.passwordKey) (not $redis.existingSecret.name) -}}
{{- fail "redis.existingSecret.urlKey or passwordKey is set: set redis.existingSecret.name too." -}}
{{- end -}}
{{- if and $redis.existingSecret.urlKey (include "ojs.redisUrl" .) -}}
{{- fail "redis.existingSecret.urlKey excludes redis.url and valkey.enabled: only one of them can be the address of Redis." -}}
{{- end -}}
{{- if and $redis.password $redis.existingSecret.passwordKey -}}
{{- fail "redis.password and redis.existingSecret.passwordKey exclude each other." -}}
{{- end -}}
{{- if not (or (include "ojs.redisUrl" .) $redis.existingSecret.urlKey) -}}
{{- fail "No Redis: set redis.url (redis://host:6379), or redis.existingSecret.name and urlKey, or valkey.enabled=true for a trial." -}}
{{- end -}}
{{- if and $redis.tls.existingSecret $redis.url (not (hasPrefix "rediss://" $redis.url)) -}}
{{- fail "redis.tls.existingSecret has no effect unless redis.url begins with rediss://." -}}
{{- end -}}
{{- if ne (empty $redis.tls.certKey) (empty $redis.tls.keyKey) -}}
{{- fail "redis.tls.certKey and redis.tls.keyKey must be set together." -}}
{{- end -}}
{{- if and $auth.existingSecret.name (or $auth.apiKey $auth.extraApiKeys) -}}
{{- fail "auth.existingSecret.name excludes auth.apiKey and auth.extraApiKeys." -}}
{{- end -}}
{{- if not (or $auth.apiKey $auth.extraApiKeys $auth.existingSecret.name $auth.keysFile.existingSecret $auth.allowInsecure) -}}
{{- fail "No key: set auth.apiKey, or auth.existingSecret.name, or auth.keysFile.existingSecret, or auth.allowInsecure=true to accept every client." -}}
{{- end -}}
{{- if le (int64 $drain.timeoutSeconds) (int64 (include "ojs.longestPollSeconds" .)) -}}
{{- fail (printf "api.drain.timeoutSeconds is %d: it must be longer than the longest long poll, %s seconds." (int64 $drain.timeoutSeconds) (include "ojs.longestPollSeconds" .)) -}}
{{- end -}}
{{- if and .Values.api.autoscaling.enabled .Values.api.keda.enabled -}}
{{- fail "api.autoscaling and api.keda exclude each other: KEDA creates its own HorizontalPodAutoscaler." -}}
{{- end -}}
{{- $keda := .Values.api.keda -}}
{{- if and $keda.enabled (or $keda.requestsInFlight $keda.query) (not $keda.serverAddress) -}}
{{- fail "api.keda.serverAddress must be the address of Prometheus." -}}
{{- end -}}
{{- if and $keda.enabled (not (or $keda.cpuUtilization $keda.requestsInFlight $keda.query $keda.extraTriggers)) -}}
{{- fail "api.keda has no trigger: set cpuUtilization, requestsInFlight, query or extraTriggers." -}}
{{- end -}}
{{- if and .Values.workers.scaling.deployments (not .Values.workers.scaling.serverAddress) -}}
{{- fail "workers.scaling.serverAddress must be the address of Prometheus." -}}
{{- end -}}
{{- range .Values.workers.scaling.deployments -}}
{{- if gt (int64 (.minReplicas | default 0)) (int64 (.maxReplicas | default 10)) -}}
{{- fail (printf "workers.scaling.deployments: minReplicas of %s (%d) is more than maxReplicas (%d)." .name (int64 (.minReplicas | default 0)) (int64 (.maxReplicas | default 10))) -}}
{{- end -}}
{{- end -}}
{{- $oidc := .Values.ui.oidc -}}
{{- if and $oidc.issuer (not (and $oidc.clientId $oidc.redirectUrl $oidc.roles $oidc.existingSecret.name $oidc.existingSecret.key)) -}}
{{- fail "ui.oidc.issuer is set: set clientId, redirectUrl, roles and existingSecret too." -}}
{{- end -}}
{{- $monitor := .Values.metrics.serviceMonitor -}}
{{- if ne (empty $monitor.existingSecret.name) (empty $monitor.existingSecret.key) -}}
{{- fail "metrics.serviceMonitor.existingSecret.name and key must be set together." -}}
{{- end -}}
{{- if and (eq (include "ojs.scrapedWithKey" .) "true") (not $monitor.existingSecret.name) (not $auth.apiKey) (not $auth.existingSecret.name) -}}
{{- fail "Prometheus needs a key for /metrics: set auth.apiKey, or metrics.serviceMonitor.existingSecret, or metrics.open." -}}
{{- end -}}
{{- if and .Values.ingress.enabled (not .Values.ingress.hosts) -}}
{{- fail "ingress.hosts must have at least one host." -}}
{{- end -}}
{{- if and .Values.httpRoute.enabled (not .Values.httpRoute.parentRefs) -}}
{{- fail "httpRoute.parentRefs must have at least one Gateway." -}}
{{- end -}}
{{- range $scaler := list "autoscaling" "keda" -}}
{{- $it := get $.Values.api $scaler -}}
{{- if gt (int64 $it.minReplicas) (int64 $it.maxReplicas) -}}
{{- fail (printf "api.%s.minReplicas (%d) is more than maxReplicas (%d)." $scaler (int64 $it.minReplicas) (int64 $it.maxReplicas)) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Whether Prometheus needs a key: "true" or "false". */}}
{{- define "ojs.scrapedWithKey" -}}
{{- $keys := or .Values.auth.apiKey .Values.auth.extraApiKeys .Values.auth.existingSecret.name .Values.auth.keysFile.existingSecret -}}
{{- and .Values.metrics.serviceMonitor.enabled (not .Values.metrics.open) (not (empty $keys)) -}}
{{- end -}}

{{/* "true" if this component mounts the file of keys. Takes root and component. */}}
{{- define "ojs.mountsKeys" -}}
{{- $reads := or (eq .component "api") (eq (include "ojs.scrapedWithKey" .root) "true") -}}
{{- and $reads (not (empty .root.Values.auth.keysFile.existingSecret)) -}}
{{- end -}}

{{/* The label matchers of this release in a query, without braces. */}}
{{- define "ojs.series" -}}
{{- printf "namespace=%q,job=~%q" .Release.Namespace (printf "%s(-scheduler)?" (include "ojs.fullname" .)) -}}
{{- end -}}

{{/*
A query for the number of API requests in flight in all pods: their total duration per second. Fetches do not
count, because a fetch that waits for jobs is idle.
*/}}
{{- define "ojs.requestsInFlight" -}}
{{- printf "sum(rate(ojs_http_request_duration_seconds_sum{%s,route!~\".*/(fetch|heartbeat)\"}[2m]))" (include "ojs.series" .) -}}
{{- end -}}

{{/* A query for the age of the oldest available job of some queues, in seconds. Takes: root, queues. */}}
{{- define "ojs.oldestAge" -}}
{{- printf "max(max by (queue) (ojs_queue_oldest_available_age_seconds{%s}) %s) or %s" (include "ojs.seriesOfQueues" .) (include "ojs.unlessPaused" .) (include "ojs.zeroIfKnown" .) -}}
{{- end -}}

{{/* A query for available and active jobs of some queues. Without active jobs, a scaler would stop their workers. */}}
{{- define "ojs.backlog" -}}
{{- printf "sum(max by (queue, state) (ojs_queue_jobs{%s,state=~\"available|active\"}) %s) or %s" (include "ojs.seriesOfQueues" .) (include "ojs.unlessPaused" .) (include "ojs.zeroIfKnown" .) -}}
{{- end -}}

{{- define "ojs.seriesOfQueues" -}}
{{- $names := list -}}
{{- range .queues -}}
{{- $names = append $names (regexQuoteMeta .) -}}
{{- end -}}
{{- printf "%s,queue=~%q" (include "ojs.series" .root) (join "|" $names) -}}
{{- end -}}

{{/* 0 if Redis answers and there are no jobs; no value if Redis does not answer, which keeps the number of workers. */}}
{{- define "ojs.zeroIfKnown" -}}
{{- printf "(max(ojs_redis_up{%s}) == 1) * 0" (include "ojs.series" .root) -}}
{{- end -}}

{{/* Paused queues do not count: more workers would not help. */}}
{{- define "ojs.unlessPaused" -}}
{{- printf "unless on (queue) (max by (queue) (ojs_queue_paused{%s}) == 1)" (include "ojs.series" .root) -}}
{{- end -}}

{{/* The egress rule for DNS, which every NetworkPolicy has. Takes the root. */}}
{{- define "ojs.dnsEgress" -}}
- ports:
    {{- range $port := .Values.networkPolicy.dnsPorts }}
    {{- range list "UDP" "TCP" }}
    - port: {{ $port }}
      protocol: {{ . }}
    {{- end }}
    {{- end }}
  to:
    {{- toYaml .Values.networkPolicy.dnsTo | nindent 4 }}
{{- end -}}
