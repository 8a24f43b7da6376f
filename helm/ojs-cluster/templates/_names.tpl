{{- define "ojs.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/*
The full name, which all object names begin with. It is unique among the releases of a namespace.

It has at most 36 characters: the longest suffix has 21, pods of a Job add six, and a label holds 63. A truncated
name ends in a hash of the whole name, and so does a name that another release could have: release
`jobs-ojs-cluster` would have the name of release `jobs`, and `ojs-cluster-test` that of an object of
`ojs-cluster`. Objects of an earlier chart keep their names without a hash, if the cluster can be read.
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
{{- $taken = regexMatch (printf "-(%s|api|scheduler|dashboard|test|valkey(-leave|-meet|-form(-[0-9a-f]{8})?)?)$" (regexQuoteMeta $name)) $release -}}
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

{{/* "true" if a ConfigMap of this name belongs to this release. Takes a dict: root, name. */}}
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
Metadata of an object. Takes a dict: root, name, and optionally component, namespace, labels, annotations.
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

{{/* Labels of an object. Labels that change between versions are here, never in a selector. */}}
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
Labels of pods. They never depend on the version of the chart: a change would restart the pods, the bundled
Valkey included.
*/}}
{{- define "ojs.podLabels" -}}
{{- $ours := dict "app.kubernetes.io/part-of" "ojs-cluster" -}}
{{- $selector := include "ojs.selector" . | fromYaml -}}
{{- toYaml (merge (dict) $selector $ours (.labels | default dict) .root.Values.commonLabels) -}}
{{- end -}}

{{/* The selector of pods. Kubernetes cannot change it; tests/helm has a record of it. */}}
{{- define "ojs.selector" -}}
app.kubernetes.io/name: {{ include "ojs.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- with .component }}
app.kubernetes.io/component: {{ . }}
{{- end }}
{{- end -}}

{{/* An image, by digest if it is set. Takes a dict: image, tag. */}}
{{- define "ojs.image" -}}
{{- if .image.digest -}}
{{- printf "%s@%s" .image.repository .image.digest -}}
{{- else -}}
{{- printf "%s:%s" .image.repository (.image.tag | default .tag) -}}
{{- end -}}
{{- end -}}
