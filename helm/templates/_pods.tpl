{{/* What all pods and containers have in common. */}}

{{- define "live-avatar.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ .Values.podSecurity.runAsUser }}
runAsGroup: {{ .Values.podSecurity.runAsGroup }}
fsGroup: {{ .Values.podSecurity.runAsGroup }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "live-avatar.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* Ports of a container: service. */}}
{{- define "live-avatar.containerPorts" -}}
{{- $suffix := include "live-avatar.portSuffix" . -}}
- name: grpc{{ $suffix }}
  containerPort: {{ include "live-avatar.grpcPort" . }}
- name: health{{ $suffix }}
  containerPort: {{ include "live-avatar.healthPort" . }}
- name: metrics{{ $suffix }}
  containerPort: {{ include "live-avatar.metricsPort" . }}
{{- end }}

{{/*
Probes, asked at a plaintext port that answers while the service loads: list context, service. Startup: the process is
up. Readiness: loaded, and the services behind it take work. Liveness: the running block is not stuck.
*/}}
{{- define "live-avatar.probes" -}}
{{- $probes := (first .).Values.probes -}}
{{- $port := include "live-avatar.healthPort" (last .) -}}
startupProbe:
  grpc: {port: {{ $port }}, service: startup}
  periodSeconds: 1
  timeoutSeconds: {{ $probes.timeoutSeconds }}
  failureThreshold: {{ $probes.startupSeconds }}
readinessProbe:
  grpc: {port: {{ $port }}, service: readiness}
  periodSeconds: {{ $probes.periodSeconds }}
  timeoutSeconds: {{ $probes.timeoutSeconds }}
  failureThreshold: 1
livenessProbe:
  grpc: {port: {{ $port }}, service: liveness}
  periodSeconds: {{ $probes.periodSeconds }}
  timeoutSeconds: {{ $probes.timeoutSeconds }}
  failureThreshold: {{ $probes.failureThreshold }}
{{- end }}

{{/* The pod leaves its Services before it is asked to stop. */}}
{{- define "live-avatar.lifecycle" -}}
preStop:
  sleep: {seconds: {{ .Values.drain.preStopSeconds }}}
{{- end }}

{{- define "live-avatar.gracePeriod" -}}
{{- add .Values.drain.preStopSeconds .Values.drain.seconds .Values.drain.marginSeconds -}}
{{- end }}

{{- define "live-avatar.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Environment of a service: list context, values of the service. */}}
{{- define "live-avatar.environment" -}}
- {name: HOME, value: /tmp}
{{- with dig "watermark" "existingSecret" "" (last .) }}
- name: LIVE_AVATAR__WATERMARK__KEY
  valueFrom:
    secretKeyRef:
      name: {{ . }}
      key: watermark-key
{{- end }}
{{- with (last .).env }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Where a pod may run: the pod's values. */}}
{{- define "live-avatar.placement" -}}
{{- with .nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end }}
