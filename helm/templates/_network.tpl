{{/* Peers of a network policy. */}}

{{- define "live-avatar.peers" -}}
{{- if . }}
from:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "live-avatar.otlpEgress" -}}
{{- with .Values.telemetry.otlpEndpoint -}}
- ports:
    - {protocol: TCP, port: {{ regexFind "[0-9]+$" . | default "4317" }}}
{{- end -}}
{{- end }}
