{{/*
Shared parts of the pods of API and scheduler. Each takes a dict: root, component (the key of its values, and its
label).
*/}}
{{- define "ojs.podMetadata" -}}
{{- $values := get .root.Values .component -}}
labels:
  {{- include "ojs.podLabels" (merge (dict "labels" $values.podLabels) .) | nindent 2 }}
annotations:
  # A container reads these values only at its start, so a change restarts the pod.
  checksum/config: {{ include "ojs.configData" .root | sha256sum }}
  checksum/secret: {{ include "ojs.secretData" .root | sha256sum }}
  {{- with merge (dict) $values.podAnnotations .root.Values.commonAnnotations }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{/* Shared by all pods: account, privileges, placement. Takes: root, values, context. */}}
{{- define "ojs.anyPodSpec" -}}
serviceAccountName: {{ .account | default (include "ojs.serviceAccountName" .root) }}
automountServiceAccountToken: false
# Otherwise a Service named `ojs` would set OJS_PORT=tcp://... in the environment.
enableServiceLinks: false
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
securityContext:
  {{- include "ojs.securityContext" . | nindent 2 }}
{{- with .values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/*
The security context of a pod or container. OpenShift's `restricted-v2` refuses fixed users and groups and
assigns them per namespace. Takes: root, context.
*/}}
{{- define "ojs.securityContext" -}}
{{- if eq (include "ojs.onOpenShift" .root) "true" -}}
{{- omit .context "runAsUser" "runAsGroup" "fsGroup" | toYaml -}}
{{- else -}}
{{- toYaml .context -}}
{{- end -}}
{{- end -}}

{{- define "ojs.onOpenShift" -}}
{{- $wanted := .Values.compatibility.openshift -}}
{{- $there := .Capabilities.APIVersions.Has "security.openshift.io/v1" -}}
{{- or (eq $wanted "force") (and $there (eq $wanted "auto")) -}}
{{- end -}}

{{- define "ojs.podSpec" -}}
{{- $values := get .root.Values .component -}}
{{- include "ojs.anyPodSpec" (dict "root" .root "values" $values "context" .root.Values.podSecurityContext) }}
{{- with $values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- $spread := $values.topologySpread }}
{{- if or $spread.zones $spread.hosts }}
topologySpreadConstraints:
  {{- range $rule := list (list $spread.zones "topology.kubernetes.io/zone") (list $spread.hosts "kubernetes.io/hostname") }}
  {{- if first $rule }}
  - maxSkew: 1
    topologyKey: {{ last $rule }}
    whenUnsatisfiable: {{ first $rule }}
    labelSelector:
      matchLabels:
        {{- include "ojs.selector" $ | nindent 8 }}
    # Counts old and new pods separately; otherwise an update would spread the new ones unevenly.
    matchLabelKeys: [pod-template-hash]
  {{- end }}
  {{- end }}
{{- end }}
volumes:
  # The root file system is read-only, and Python needs a directory for temporary files.
  - name: tmp
    emptyDir:
      sizeLimit: 64Mi
  {{- with .root.Values.redis.tls.existingSecret }}
  - name: redis-tls
    secret:
      secretName: {{ . }}
      defaultMode: 0440
  {{- end }}
  {{- with include "ojs.valkey.tlsSecret" .root }}
  - name: redis-tls
    {{- include "ojs.valkey.authority" $.root | nindent 4 }}
  {{- end }}
  {{- if and (eq .component "api") .root.Values.tls.existingSecret }}
  - name: tls
    secret:
      secretName: {{ .root.Values.tls.existingSecret }}
      defaultMode: 0440
  {{- end }}
  {{- if eq (include "ojs.mountsKeys" .) "true" }}
  - name: api-keys
    secret:
      secretName: {{ .root.Values.auth.keysFile.existingSecret }}
      defaultMode: 0440
  {{- end }}
  {{- with .root.Values.extraVolumes }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{/* The container without its command, ports and probes. */}}
{{- define "ojs.container" -}}
{{- $values := get .root.Values .component -}}
name: {{ .component }}
image: {{ include "ojs.image" (dict "image" .root.Values.image "tag" .root.Chart.AppVersion) }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
securityContext:
  {{- include "ojs.securityContext" (dict "root" .root "context" .root.Values.securityContext) | nindent 2 }}
resources:
  {{- toYaml $values.resources | nindent 2 }}
envFrom:
  - configMapRef:
      name: {{ include "ojs.fullname" .root }}
  {{- with .root.Values.extraEnvFrom }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
env:
  {{- /* Of two entries with the same name Kubernetes uses the last, but server-side apply refuses them. */}}
  {{- $all := concat (include "ojs.redisEnv" .root | fromYamlArray) (.env | default "" | fromYamlArray) .root.Values.extraEnv }}
  {{- $last := dict }}
  {{- range $i, $entry := $all }}
  {{- $_ := set $last $entry.name $i }}
  {{- end }}
  {{- range $i, $entry := $all }}
  {{- if eq $i (get $last $entry.name) }}
  {{- list $entry | toYaml | nindent 2 }}
  {{- end }}
  {{- end }}
volumeMounts:
  - name: tmp
    mountPath: /tmp
  {{- if or .root.Values.redis.tls.existingSecret (include "ojs.valkey.tlsSecret" .root) }}
  - name: redis-tls
    mountPath: /etc/ojs/redis-tls
    readOnly: true
  {{- end }}
  {{- if and (eq .component "api") .root.Values.tls.existingSecret }}
  # Mounts the whole Secret: a single entry (subPath) would never be updated.
  - name: tls
    mountPath: /etc/ojs/tls
    readOnly: true
  {{- end }}
  {{- if eq (include "ojs.mountsKeys" .) "true" }}
  # Mounts the whole Secret: a single entry (subPath) would never be updated.
  - name: api-keys
    mountPath: /etc/ojs/keys
    readOnly: true
  {{- end }}
  {{- with .root.Values.extraVolumeMounts }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{/*
Probes. Also takes: port. `/live` and `/ready` differ: without Redis a pod is live but not ready.
*/}}
{{- define "ojs.probes" -}}
{{- $values := get .root.Values .component -}}
{{- range $probe, $path := dict "startupProbe" "/live" "livenessProbe" "/live" "readinessProbe" "/ready" }}
{{ $probe }}:
  httpGet:
    path: {{ $path }}
    port: {{ $.port }}
    {{- if and (eq $.component "api") $.root.Values.tls.existingSecret }}
    scheme: HTTPS
    {{- end }}
  {{- toYaml (get $values $probe) | nindent 2 }}
{{- end }}
{{- end -}}
