{{/*
Refuses changes that running nodes of the bundled Valkey do not support. Kubernetes cannot change the volume claims
of a StatefulSet, and nodes with different passwords cannot talk to each other: such an upgrade would fail halfway.
*/}}
{{- define "ojs.valkey.refuseChanges" -}}
{{- $name := printf "%s-valkey" (include "ojs.fullname" .) -}}
{{- $namespace := .Release.Namespace -}}
{{- with lookup "apps/v1" "StatefulSet" $namespace $name -}}
{{- $orphan := printf "kubectl -n %s delete statefulset %s" $namespace $name -}}
{{- $wanted := $.Values.valkey.persistence -}}
{{- $claims := .spec.volumeClaimTemplates | default list -}}
{{- if ne (empty $claims) (not $wanted.enabled) -}}
{{- fail (printf "valkey.persistence.enabled is %t, but the nodes of this release were installed with another value, which Kubernetes cannot change. Install another release and move the jobs: README, Changing the bundled Valkey." $wanted.enabled) -}}
{{- end -}}
{{- range $claims -}}
{{- $size := .spec.resources.requests.storage -}}
{{- if ne (include "ojs.bytes" $size) (include "ojs.bytes" $wanted.size) -}}
{{- fail (printf "valkey.persistence.size is %s, but the volumes of this release have %s, and Kubernetes cannot change that in a StatefulSet. Enlarge the claims (README, Changing the bundled Valkey), then run `%s --cascade=orphan`, which stops no pod, and upgrade again." $wanted.size $size $orphan) -}}
{{- end -}}
{{- $class := .spec.storageClassName | default "" -}}
{{- if ne $class $wanted.storageClassName -}}
{{- fail (printf "valkey.persistence.storageClassName is %q, but the volumes of this release have %q, and Kubernetes cannot change that. Install another release and move the jobs: README, Changing the bundled Valkey." $wanted.storageClassName $class) -}}
{{- end -}}
{{- end -}}
{{- with lookup "v1" "ConfigMap" $namespace $name -}}
{{- $masters := get (.data | default dict) "nodes" | regexFind "masters [0-9]+" | trimPrefix "masters " | int -}}
{{- if lt (int $.Values.valkey.masters) $masters -}}
{{- fail (printf "valkey.masters is %d, but the cluster of this release has %d, and masters cannot be removed. Keep %d. If the new nodes have never joined, `helm rollback` removes them." (int $.Values.valkey.masters) $masters $masters) -}}
{{- end -}}
{{- end -}}
{{- $encrypted := false -}}
{{- range .spec.template.spec.volumes -}}
{{- if eq .name "tls" -}}
{{- $encrypted = true -}}
{{- end -}}
{{- end -}}
{{- if ne $encrypted (ne (include "ojs.valkey.tlsSecret" $) "") -}}
{{- fail (printf "valkey.tls.existingSecret is %q, but the nodes of this release run with another value, and nodes with and without TLS cannot talk to each other. Keep the value. Only with volumes you can instead stop all nodes: run `%s`, and upgrade again: README, Changing the bundled Valkey." $.Values.valkey.tls.existingSecret $orphan) -}}
{{- end -}}
{{- $running := include "ojs.valkey.runningPassword" . -}}
{{- $named := $.Values.redis.password -}}
{{- $known := true -}}
{{- with $.Values.redis.existingSecret -}}
{{- if .passwordKey -}}
{{- $secret := lookup "v1" "Secret" $namespace .name -}}
{{- $known = not (empty $secret) -}}
{{- $named = get (get $secret "data" | default dict) .passwordKey | b64dec -}}
{{- end -}}
{{- end -}}
{{- if and $known (ne $running "unknown") (ne (sha256sum $named) $running) -}}
{{- fail (printf "The nodes of this release run with another password, and nodes with different passwords cannot talk to each other. Keep the password. Only with volumes you can instead stop all nodes: run `%s`, and upgrade again: README, Changing the bundled Valkey." $orphan) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* The hash of the password of the running nodes, "unknown" if it cannot be read. Takes a StatefulSet. */}}
{{- define "ojs.valkey.runningPassword" -}}
{{- $hash := sha256sum "" -}}
{{- range (index .spec.template.spec.containers 0).env -}}
{{- if eq .name "OJS_REDIS_PASSWORD" -}}
{{- $hash = "unknown" -}}
{{- $reference := .valueFrom.secretKeyRef -}}
{{- with lookup "v1" "Secret" $.metadata.namespace $reference.name -}}
{{- with get (.data | default dict) $reference.key -}}
{{- $hash = b64dec . | sha256sum -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $hash -}}
{{- end -}}

{{/* A quantity in bytes, because the API server writes 1.5Gi as 1536Mi. */}}
{{- define "ojs.bytes" -}}
{{- $units := dict "" 1 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "P" 1e15 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 "Pi" 1125899906842624 -}}
{{- $number := regexFind "^[0-9.]+" . -}}
{{- printf "%.0f" (mulf (float64 $number) (float64 (get $units (trimPrefix $number .)))) -}}
{{- end -}}
