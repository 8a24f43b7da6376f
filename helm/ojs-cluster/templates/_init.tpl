{{/*
Adds the values that an earlier chart did not have: with `--reuse-values` Helm gives a release the defaults of
the chart that it comes from. Every template begins with it. An absent value is one that its chart did not
know, or one that was set to null.
*/}}
{{- define "ojs.init" -}}
{{- range $path, $default := .Files.Get "files/added-values.json" | fromJson -}}
{{- $keys := splitList "." $path -}}
{{- $at := $.Values -}}
{{- range initial $keys -}}
{{- if not (kindIs "map" (get $at .)) -}}
{{- $_ := set $at . dict -}}
{{- end -}}
{{- $at = get $at . -}}
{{- end -}}
{{- if not (hasKey $at (last $keys)) -}}
{{- $_ := set $at (last $keys) $default -}}
{{- end -}}
{{- end -}}
{{- /* What a file of values names and leaves empty, because all below it is commented out, is null. */ -}}
{{- range $key, $empty := dict "config" dict "commonLabels" dict "commonAnnotations" dict "extraEnv" list -}}
{{- if not (get $.Values $key) -}}
{{- $_ := set $.Values $key $empty -}}
{{- end -}}
{{- end -}}
{{- end -}}
