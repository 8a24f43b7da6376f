{{/* The DNS names of all nodes, comma separated. */}}
{{- define "ojs.valkey.nodes" -}}
{{- $name := printf "%s-valkey" (include "ojs.fullname" .) -}}
{{- $nodes := list -}}
{{- range $i := until (mul .Values.valkey.masters (add 1 .Values.valkey.replicasPerMaster) | int) -}}
{{- $nodes = append $nodes (printf "%s-%d.%s:6379" $name $i $name) -}}
{{- end -}}
{{- join "," $nodes -}}
{{- end -}}

{{/* The Job that creates the bundled cluster. Takes a dict: root, component, name, nodes. */}}
{{- define "ojs.valkey.formSpec" -}}
{{- $values := .root.Values.valkey.form -}}
backoffLimit: 10
template:
  metadata:
    labels:
      {{- include "ojs.podLabels" (merge (dict "labels" $values.podLabels) .) | nindent 6 }}
    {{- with $values.podAnnotations }}
    annotations:
      {{- toYaml . | nindent 6 }}
    {{- end }}
  spec:
    restartPolicy: OnFailure
    {{- include "ojs.anyPodSpec" (dict "root" .root "values" $values "context" .root.Values.podSecurityContext) | nindent 4 }}
    {{- with $values.affinity }}
    affinity:
      {{- toYaml . | nindent 6 }}
    {{- end }}
    volumes:
      - name: scripts
        configMap:
          name: {{ .name }}
      {{- if include "ojs.valkey.tlsSecret" .root }}
      - name: tls
        {{- include "ojs.valkey.authority" .root | nindent 8 }}
      {{- end }}
    containers:
      - name: form
        image: {{ include "ojs.image" (dict "image" .root.Values.image "tag" .root.Chart.AppVersion) }}
        imagePullPolicy: {{ .root.Values.image.pullPolicy }}
        command: [python, /scripts/valkey_cluster.py, {{ .nodes | quote }}, {{ .root.Values.valkey.masters | quote }}]
        securityContext:
          {{- include "ojs.securityContext" (dict "root" .root "context" .root.Values.securityContext) | nindent 10 }}
        resources:
          {{- toYaml $values.resources | nindent 10 }}
        {{- $tls := include "ojs.valkey.tlsSecret" .root }}
        {{- if or $tls .root.Values.redis.password .root.Values.redis.existingSecret.passwordKey }}
        env:
          {{- if $tls }}
          - name: OJS_REDIS_TLS_CA
            value: /tls/{{ .root.Values.valkey.tls.caKey }}
          {{- end }}
        {{- end }}
        {{- if or .root.Values.redis.password .root.Values.redis.existingSecret.passwordKey }}
          - name: OJS_REDIS_PASSWORD
            {{- include "ojs.redisPasswordFrom" .root | nindent 12 }}
        {{- end }}
        volumeMounts:
          - name: scripts
            mountPath: /scripts
            readOnly: true
          {{- if $tls }}
          - name: tls
            mountPath: /tls
            readOnly: true
          {{- end }}
{{- end -}}

{{/*
The start script of a bundled node. $POD_IP, $POD_NAME, $NODE_NAME and the password are known only in the pod.
The announced names tell the pod and the host of a node, which valkey_meet.awk needs.
*/}}
{{- define "ojs.valkey.start" -}}
{{- $valkey := .Values.valkey -}}
set -eu
{
  echo "dir /data"
  echo "cluster-enabled yes"
  echo "cluster-config-file nodes.conf"
  echo "cluster-node-timeout {{ $valkey.nodeTimeoutMs }}"
  echo "cluster-announce-ip $POD_IP"
  echo "cluster-announce-hostname $POD_NAME.{{ include "ojs.fullname" . }}-valkey"
  echo "cluster-announce-human-nodename $NODE_NAME"
  # Slots that lost master and replica must not make the other slots unavailable.
  echo "cluster-require-full-coverage no"
  echo "cluster-allow-replica-migration no"
  echo "appendonly yes"
  echo "appendfsync everysec"
  echo "save ''"
  echo "maxmemory {{ $valkey.maxmemory }}"
  echo "maxmemory-policy noeviction"
  # Hashes with values up to this size are listpacks, which take half the memory (docs/performance.md).
  echo "hash-max-listpack-value 1024"
  {{- if include "ojs.valkey.tlsSecret" . }}
  echo "port 0"
  echo "tls-port 6379"
  echo "tls-cert-file /tls/{{ $valkey.tls.certKey }}"
  echo "tls-key-file /tls/{{ $valkey.tls.keyKey }}"
  echo "tls-ca-cert-file /tls/{{ $valkey.tls.caKey }}"
  echo "tls-replication yes"
  echo "tls-cluster yes"
  # Clients authenticate by password; they have no certificate.
  echo "tls-auth-clients no"
  # Addresses change, and certificates do not contain them.
  echo "cluster-preferred-endpoint-type hostname"
  {{- end }}
  # NetworkPolicy and password protect the node; a pod has no fixed address to bind to.
  echo "protected-mode no"
  if [ -n "${OJS_REDIS_PASSWORD:-}" ]; then
    quoted=$(printf '%s' "$OJS_REDIS_PASSWORD" | sed 's/[\\"]/\\&/g')
    printf 'requirepass "%s"\nmasterauth "%s"\n' "$quoted" "$quoted"
  fi
} > /tmp/valkey.conf
exec valkey-server /tmp/valkey.conf
{{- end -}}

{{/* Sets the password of probes, if there is one: valkey-cli would send an empty password, which is refused. */}}
{{- define "ojs.valkey.auth" -}}
if [ -n "${OJS_REDIS_PASSWORD:-}" ]; then export REDISCLI_AUTH="$OJS_REDIS_PASSWORD"; fi
{{- if include "ojs.valkey.tlsSecret" . }}
export PATH="/scripts:$PATH"
{{- end }}
{{- end -}}

{{/* The Secret with the certificate of the nodes; empty without TLS. */}}
{{- define "ojs.valkey.tlsSecret" -}}
{{- if .Values.valkey.enabled -}}
{{- .Values.valkey.tls.existingSecret -}}
{{- end -}}
{{- end -}}

{{/* A volume with the authority of the nodes' certificate, without their private key. */}}
{{- define "ojs.valkey.authority" -}}
secret:
  secretName: {{ .Values.valkey.tls.existingSecret }}
  defaultMode: 0440
  items:
    - key: {{ .Values.valkey.tls.caKey }}
      path: {{ .Values.valkey.tls.caKey }}
{{- end -}}

{{/* A wrapper before the real valkey-cli on PATH, so that scripts need no TLS options. */}}
{{- define "ojs.valkey.cli" -}}
#!/bin/sh
PATH=${PATH#/scripts:}
exec valkey-cli --tls --cacert /tls/{{ .Values.valkey.tls.caKey }} "$@"
{{- end -}}
