{{- define "ojs.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* At most 36 characters: the longest suffix has 21, a Job's pods add six, a label holds 63. */}}
{{- define "ojs.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 36 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 36 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 36 | trimSuffix "-" -}}
{{- end -}}
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
Metadata of an object. Takes a dict: root, name, component (may be empty), labels, annotations.
*/}}
{{- define "ojs.metadata" -}}
name: {{ .name }}
namespace: {{ .root.Release.Namespace }}
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
