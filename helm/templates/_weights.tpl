{{/* Where the weights come from: everything that depends on weights.source. All services share one read-only mount. */}}

{{/* The weights are a volume, neither random nor part of the images. */}}
{{- define "live-avatar.weightsMounted" -}}
{{- if not (has .Values.weights.source (list "random" "package")) -}}true{{- end -}}
{{- end }}

{{/* The folder a process finds them in; empty where they are random. */}}
{{- define "live-avatar.weightsFolder" -}}
{{- if eq .Values.weights.source "package" -}}/opt/service/live_avatar/samples/tiny
{{- else if ne .Values.weights.source "random" -}}/weights
{{- end -}}
{{- end }}

{{- define "live-avatar.weightsVolume" -}}
{{- if include "live-avatar.weightsMounted" . -}}
- name: weights
  {{- if eq .Values.weights.source "pvc" }}
  persistentVolumeClaim:
    claimName: {{ .Values.weights.pvc.claimName }}
    readOnly: true
  {{- else if eq .Values.weights.source "hostPath" }}
  hostPath:
    path: {{ .Values.weights.hostPath.path }}
    type: Directory
  {{- else if eq .Values.weights.source "image" }}
  image:
    reference: {{ .Values.weights.image.reference }}
    pullPolicy: {{ .Values.weights.image.pullPolicy }}
  {{- else }}
  emptyDir:
    sizeLimit: {{ .Values.weights.copy.sizeLimit }}
  {{- end }}
{{- end -}}
{{- end }}

{{- define "live-avatar.weightsMount" -}}
{{- if include "live-avatar.weightsMounted" . -}}
- name: weights
  mountPath: /weights
  readOnly: true
  {{- with .Values.weights.subPath }}
  subPath: {{ . }}
  {{- end }}
{{- end -}}
{{- end }}

{{/* The container that copies them before all others start. */}}
{{- define "live-avatar.weightsCopy" -}}
{{- if eq .Values.weights.source "copy" -}}
initContainers:
  - name: copy-weights
    image: {{ .Values.weights.image.reference }}
    imagePullPolicy: {{ .Values.weights.image.pullPolicy }}
    command: [cp, -r, {{ .Values.weights.copy.from | trimSuffix "/" }}/., /weights/]
    securityContext:
      {{- include "live-avatar.containerSecurity" . | nindent 6 }}
    resources:
      requests: {cpu: "1", memory: 256Mi}
      limits: {cpu: "2", memory: 1Gi}
    volumeMounts:
      - {name: weights, mountPath: /weights}
{{- end -}}
{{- end }}
