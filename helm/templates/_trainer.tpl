{{/* What the jobs of training have in common. */}}

{{/* --key=value of a dictionary of options. */}}
{{- define "live-avatar.options" -}}
{{- range $name, $value := . }}
- --{{ $name }}={{ $value }}
{{- end }}
{{- end }}

{{- define "live-avatar.trainerDevice" -}}
{{- gt (int .) 0 | ternary "cuda" "cpu" -}}
{{- end }}

{{/* Resources and GPUs: list context, values of the job. */}}
{{- define "live-avatar.trainerResources" -}}
{{- $root := first . -}}
{{- $resources := deepCopy (last .).resources -}}
{{- $gpus := int (last .).gpus -}}
{{- if gt $gpus 0 -}}
{{- range $kind := list "requests" "limits" -}}
{{- $_ := set $resources $kind (merge (dict $root.Values.gpu.resource $gpus) (default dict (get $resources $kind))) -}}
{{- end -}}
{{- end -}}
{{ toYaml $resources }}
{{- end }}

{{/* The pod of a training process: a whole node's work in one container. */}}
{{- define "live-avatar.trainerPod" -}}
{{- $trainer := .Values.trainer -}}
metadata:
  labels:
    {{- include "live-avatar.labels" (list . "trainer") | nindent 4 }}
spec:
  restartPolicy: Never
  automountServiceAccountToken: false
  enableServiceLinks: false
  {{- include "live-avatar.pullSecrets" . | indent 2 }}
  securityContext:
    {{- include "live-avatar.podSecurity" . | nindent 4 }}
  {{- with .Values.gpu.runtimeClassName }}
  runtimeClassName: {{ . }}
  {{- end }}
  {{- include "live-avatar.placement" $trainer | indent 2 }}
  tolerations:
    - {key: nvidia.com/gpu, operator: Exists, effect: NoSchedule}
    {{- with $trainer.tolerations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with include "live-avatar.weightsCopy" . }}
  {{- . | nindent 2 }}
  {{- end }}
  containers:
    - name: node
      image: {{ include "live-avatar.image" (list . "trainer") }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      command: [python, -m, torch.distributed.run]
      args:
        - --nproc-per-node={{ max 1 (int $trainer.gpus) }}
        {{- if eq $trainer.backend "job" }}
        - --standalone
        {{- end }}
        - --module
        - live_avatar.trainer
        - {{ $trainer.phase }}
        - --data=/data
        - --output=/output/{{ $trainer.phase }}-{{ $trainer.run }}
        - --device={{ include "live-avatar.trainerDevice" $trainer.gpus }}
        {{- with include "live-avatar.weightsFolder" . }}
        - --weights={{ . }}
        {{- end }}
        {{- include "live-avatar.options" $trainer.options | indent 8 }}
      env:
        {{- include "live-avatar.environment" (list . (dict "env" list)) | nindent 8 }}
      securityContext:
        {{- include "live-avatar.containerSecurity" . | nindent 8 }}
      resources:
        {{- include "live-avatar.trainerResources" (list . $trainer) | nindent 8 }}
      volumeMounts:
        - {name: tmp, mountPath: /tmp}
        - {name: shared-memory, mountPath: /dev/shm}
        - {name: data, mountPath: /data, readOnly: true}
        - {name: output, mountPath: /output}
        {{- with include "live-avatar.weightsMount" . }}
        {{- . | nindent 8 }}
        {{- end }}
  volumes:
    - name: tmp
      emptyDir: {}
    - name: shared-memory
      emptyDir: {medium: Memory, sizeLimit: {{ $trainer.sharedMemory }}}
    - name: data
      persistentVolumeClaim: {claimName: {{ $trainer.dataClaim }}, readOnly: true}
    - name: output
      persistentVolumeClaim: {claimName: {{ $trainer.outputClaim }}}
    {{- with include "live-avatar.weightsVolume" . }}
    {{- . | nindent 4 }}
    {{- end }}
{{- end }}
