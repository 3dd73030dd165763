{{/*
The chain as data: one entry per container of a pipeline's pod, in the order of the data. "slot" numbers its ports,
"next" is the slot behind it. The decoder has a slot of its own, which no layout moves.
*/}}
{{- define "live-avatar.services" -}}
{{- $decoder := 99 -}}
{{- $stages := len .Values.stages -}}
{{- $gpu := ne .Values.gpu.mode "cpu" -}}
- name: audio-encoder
  image: audio-encoder
  values: audioEncoder
  slot: 0
  next: 1
  outside: true
  gpu: {{ ne .Values.audioEncoder.gpu "none" }}
  request: {{ eq .Values.audioEncoder.gpu "decoder" | ternary "vae-decoder" "audio-encoder" }}
  resource: {{ .Values.gpu.resource }}
  device: {{ eq .Values.audioEncoder.gpu "decoder" | ternary .Values.vaeDecoder.device .Values.audioEncoder.device }}
  args:
    - --max-whole-file-seconds={{ .Values.audioEncoder.maxWholeFileSeconds }}
    - --allow-shared-devices={{ .Values.gpu.allowShared }}
{{- range $index, $stage := .Values.stages }}
{{- $name := printf "denoise-stage-%d" (first $stage.steps | int) }}
- name: {{ $name }}
  image: denoise-stage
  values: denoiseStage
  slot: {{ add1 $index }}
  next: {{ eq (add1 $index) $stages | ternary $decoder (add $index 2) }}
  gpu: {{ $gpu }}
  request: {{ $name }}
  resource: {{ default $.Values.gpu.resource $stage.resource }}
  device: {{ hasKey $stage "device" | ternary $stage.device $index }}
  args:
    - --steps={{ join "," $stage.steps }}
    - --step-count={{ include "live-avatar.stepCount" $ }}
    - --linear={{ $.Values.denoiseStage.linear }}
    - --kv={{ $.Values.denoiseStage.kv }}
    {{- with $.Values.denoiseStage.fp8Report }}
    - --fp8-report=/weights/{{ . }}
    {{- end }}
    {{- include "live-avatar.compileArguments" (list $ $.Values.denoiseStage) | indent 4 }}
{{- end }}
- name: vae-decoder
  image: vae-decoder
  values: vaeDecoder
  slot: {{ $decoder }}
  outside: true
  gpu: {{ $gpu }}
  request: vae-decoder
  resource: {{ .Values.gpu.resource }}
  device: {{ .Values.vaeDecoder.device }}
  args:
    {{- include "live-avatar.compileArguments" (list . .Values.vaeDecoder) | indent 4 }}
    - --watermark.deployment={{ int64 .Values.vaeDecoder.watermark.deployment }}
{{- end }}

{{/* How the networks run: list context, values of the service. */}}
{{- define "live-avatar.compileArguments" }}
- --forward={{ (last .).forward }}
{{- with (first .).Values.pipeline.warmSizes }}
- --warm-sizes={{ join "," . }}
{{- end }}
{{- end }}

{{- define "live-avatar.stepCount" -}}
{{- $count := 0 -}}
{{- range .Values.stages -}}{{- $count = add $count (len .steps) -}}{{- end -}}
{{- $count -}}
{{- end }}

{{/* The three ports of a service. A port below 32768 is never taken by an outgoing connection of the same pod. */}}
{{- define "live-avatar.grpcPort" -}}{{ add 7000 (int .slot) }}{{- end }}
{{- define "live-avatar.healthPort" -}}{{ add 7100 (int .slot) }}{{- end }}
{{- define "live-avatar.metricsPort" -}}{{ add 7200 (int .slot) }}{{- end }}

{{/* What is behind the names of its ports; the head of the chain has the plain ones. */}}
{{- define "live-avatar.portSuffix" -}}
{{- if eq .name "vae-decoder" -}}-decoder{{- else if gt (int .slot) 0 -}}-s{{ sub .slot 1 }}{{- end -}}
{{- end }}

{{/* Arguments that every service has: list context, service. */}}
{{- define "live-avatar.serverArguments" -}}
{{- $root := first . -}}
{{- $service := last . -}}
- --server.host={{ if $service.outside }}{{ $root.Values.listenAddress }}{{ else }}127.0.0.1{{ end }}
- --server.port={{ include "live-avatar.grpcPort" $service }}
- --server.health-host={{ $root.Values.listenAddress }}
- --server.health-port={{ include "live-avatar.healthPort" $service }}
- --server.drain-seconds={{ $root.Values.drain.seconds }}
- --telemetry.prometheus-host={{ $root.Values.listenAddress }}
- --telemetry.prometheus-port={{ include "live-avatar.metricsPort" $service }}
- --telemetry.log-level={{ $root.Values.telemetry.logLevel }}
{{- with $root.Values.telemetry.otlpEndpoint }}
- --telemetry.otlp-endpoint={{ . }}
{{- end }}
{{- end }}

{{/* Arguments of a service of the chain: list context, service. */}}
{{- define "live-avatar.chainArguments" -}}
{{- $root := first . -}}
{{- $service := last . -}}
{{- $own := index $root.Values $service.values -}}
{{ include "live-avatar.serverArguments" . }}
{{- with $service.next }}
- --next=127.0.0.1:{{ include "live-avatar.grpcPort" (dict "slot" .) }}
{{- end }}
{{- include "live-avatar.tlsChain" . }}
{{- range $service.args }}
- {{ . }}
{{- end }}
- --preset={{ include "live-avatar.preset" $root }}
{{- with include "live-avatar.weightsFolder" $root }}
- --weights={{ . }}
{{- with $root.Values.weights.digest }}
- --weights-digest={{ . }}
{{- end }}
{{- end }}
- --device={{ include "live-avatar.device" . }}
- --threads={{ $own.threads }}
- --max-sessions={{ $root.Values.pipeline.maxSessions }}
- --memory-fraction={{ $root.Values.pipeline.memoryFraction }}
- --block-credits={{ $root.Values.pipeline.blockCredits }}
- --service-deadline-seconds={{ $root.Values.pipeline.blockDeadlineSeconds | default $root.Values.pipeline.serviceDeadlineSeconds }}
{{- end }}

{{/* Where a service finds the system it runs. */}}
{{- define "live-avatar.preset" -}}
{{- if .Values.model.description -}}/etc/live-avatar/preset.json{{- else -}}{{ .Values.model.preset }}{{- end -}}
{{- end }}

{{/* The device a service opens: with `shared` it sees all of them, otherwise its own alone. */}}
{{- define "live-avatar.device" -}}
{{- $root := first . -}}
{{- $service := last . -}}
{{- if not $service.gpu -}}cpu
{{- else if eq $root.Values.gpu.mode "shared" -}}cuda:{{ $service.device }}
{{- else -}}cuda
{{- end -}}
{{- end }}
