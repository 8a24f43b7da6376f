{{/*
Adds the values that an earlier chart did not have, because `--reuse-values` uses the defaults of the installed
chart. Every template begins with it. A value is absent if the earlier chart did not have it, or if it was set to
null.
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
{{- /* A value is null if all entries below it are commented out. */ -}}
{{- range $key, $empty := dict "config" dict "commonLabels" dict "commonAnnotations" dict "extraEnv" list -}}
{{- if not (get $.Values $key) -}}
{{- $_ := set $.Values $key $empty -}}
{{- end -}}
{{- end -}}
{{- end -}}
