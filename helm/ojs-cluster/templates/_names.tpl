{{- define "ojs.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/*
The full name, from which every object's is made. No two releases of a namespace share one.

At most 36 characters: the longest suffix has 21, a Job's pods add six, a label holds 63. A name that has to
be cut ends in a hash of the whole, and so does one that another release could have: release
`jobs-ojs-cluster` would be called as release `jobs` is, and `ojs-cluster-test` as an object of `ojs-cluster`.
Objects that an earlier chart named without the hash keep their names, where a cluster can be asked.
*/}}
{{- define "ojs.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- $release := .Release.Name -}}
{{- $whole := .Values.fullnameOverride -}}
{{- $taken := false -}}
{{- if not $whole -}}
{{- $whole = printf "%s-%s" $release $name -}}
{{- if contains $name $release -}}
{{- $whole = $release -}}
{{- $taken = regexMatch (printf "-(%s|api|scheduler|dashboard|test|valkey(-leave|-form(-[0-9a-f]{8})?)?)$" (regexQuoteMeta $name)) $release -}}
{{- end -}}
{{- end -}}
{{- $cut := $whole | trunc 36 | trimSuffix "-" -}}
{{- if not (or $taken (gt (len $whole) 36) (contains "." $whole)) -}}
{{- $cut -}}
{{- else if eq (include "ojs.owned" (dict "root" . "name" $cut)) "true" -}}
{{- $cut -}}
{{- else -}}
{{- printf "%s-%s" ($whole | replace "." "-" | trunc 27 | trimSuffix "-") (printf "%s/%s" $release $whole | sha256sum | trunc 8) -}}
{{- end -}}
{{- end -}}

{{/* "true" when a ConfigMap of that name belongs to this release. Takes a dict: root, name. */}}
{{- define "ojs.owned" -}}
{{- with lookup "v1" "ConfigMap" .root.Release.Namespace .name -}}
{{- eq (get (.metadata.annotations | default dict) "meta.helm.sh/release-name") $.root.Release.Name -}}
{{- end -}}
{{- end -}}

{{- define "ojs.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "ojs.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/*
Metadata of an object. Takes a dict: root, name, and, if need be, component, namespace, labels, annotations.
*/}}
{{- define "ojs.metadata" -}}
name: {{ .name }}
namespace: {{ .namespace | default .root.Release.Namespace }}
labels:
  {{- include "ojs.labels" . | nindent 2 }}
{{- $annotations := merge (dict) (.annotations | default dict) .root.Values.commonAnnotations }}
{{- with $annotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* What an object is called; what changes between versions is here and never in a selector. */}}
{{- define "ojs.labels" -}}
{{- $ours := dict
      "helm.sh/chart" (printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_")
      "app.kubernetes.io/version" .root.Chart.AppVersion
      "app.kubernetes.io/managed-by" .root.Release.Service
      "app.kubernetes.io/part-of" "ojs-cluster" -}}
{{- $selector := include "ojs.selector" . | fromYaml -}}
{{- toYaml (merge (dict) $selector $ours (.labels | default dict) .root.Values.commonLabels) -}}
{{- end -}}

{{/*
Labels of pods: nothing that a new version of the chart changes by itself, for that would restart
them, the bundled Valkey too.
*/}}
{{- define "ojs.podLabels" -}}
{{- $ours := dict "app.kubernetes.io/part-of" "ojs-cluster" -}}
{{- $selector := include "ojs.selector" . | fromYaml -}}
{{- toYaml (merge (dict) $selector $ours (.labels | default dict) .root.Values.commonLabels) -}}
{{- end -}}

{{/* What selects pods. A Deployment's selector cannot be changed: tests/helm keeps a record. */}}
{{- define "ojs.selector" -}}
app.kubernetes.io/name: {{ include "ojs.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- with .component }}
app.kubernetes.io/component: {{ . }}
{{- end }}
{{- end -}}

{{/* An image by digest if one is named. Takes a dict: image, tag. */}}
{{- define "ojs.image" -}}
{{- if .image.digest -}}
{{- printf "%s@%s" .image.repository .image.digest -}}
{{- else -}}
{{- printf "%s:%s" .image.repository (.image.tag | default .tag) -}}
{{- end -}}
{{- end -}}
