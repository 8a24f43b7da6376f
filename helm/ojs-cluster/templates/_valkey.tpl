{{/* The Job that forms the bundled cluster. Takes a dict: root, component, name, nodes. */}}
{{- define "ojs.valkey.formSpec" -}}
backoffLimit: 10
template:
  metadata:
    labels:
      {{- include "ojs.podLabels" . | nindent 6 }}
  spec:
    restartPolicy: OnFailure
    serviceAccountName: {{ include "ojs.serviceAccountName" .root }}
    automountServiceAccountToken: false
    enableServiceLinks: false
    {{- with .root.Values.imagePullSecrets }}
    imagePullSecrets:
      {{- range . }}
      - name: {{ . }}
      {{- end }}
    {{- end }}
    securityContext:
      {{- toYaml .root.Values.podSecurityContext | nindent 6 }}
    volumes:
      - name: scripts
        configMap:
          name: {{ .name }}
    containers:
      - name: form
        image: {{ include "ojs.image" (dict "image" .root.Values.image "tag" .root.Chart.AppVersion) }}
        imagePullPolicy: {{ .root.Values.image.pullPolicy }}
        command: [python, /scripts/valkey_cluster.py, form, {{ .nodes | quote }}, {{ .root.Values.valkey.masters | quote }}]
        securityContext:
          {{- toYaml .root.Values.securityContext | nindent 10 }}
        resources:
          requests:
            cpu: 50m
            memory: 64Mi
          limits:
            memory: 128Mi
        {{- if or .root.Values.redis.password .root.Values.redis.existingSecret.passwordKey }}
        env:
          - name: OJS_REDIS_PASSWORD
            {{- include "ojs.redisPasswordFrom" .root | nindent 12 }}
        {{- end }}
        volumeMounts:
          - name: scripts
            mountPath: /scripts
            readOnly: true
{{- end -}}
