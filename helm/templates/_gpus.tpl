{{/* How containers get their GPUs: everything that depends on gpu.mode. */}}

{{/* Resources of a container: list context, service. */}}
{{- define "live-avatar.resources" -}}
{{- $root := first . -}}
{{- $service := last . -}}
{{- $resources := deepCopy (index $root.Values $service.values).resources -}}
{{- if and $service.gpu (eq $root.Values.gpu.mode "devicePlugin") -}}
{{- range $kind := list "requests" "limits" -}}
{{- $_ := set $resources $kind (merge (dict $service.resource 1) (default dict (get $resources $kind))) -}}
{{- end -}}
{{- else if and $service.gpu (eq $root.Values.gpu.mode "dra") -}}
{{- $_ := set $resources "claims" (list (dict "name" "gpus" "request" $service.request)) -}}
{{- end -}}
{{ toYaml $resources }}
{{- end }}

{{/* Environment of a container that sees all GPUs of its node: list context, service. */}}
{{- define "live-avatar.gpuEnvironment" -}}
{{- if and (last .).gpu (eq (first .).Values.gpu.mode "shared") }}
- {name: NVIDIA_VISIBLE_DEVICES, value: all}
- {name: CUDA_DEVICE_ORDER, value: PCI_BUS_ID}
{{- end }}
{{- end }}

{{/* GPU part of a pod. */}}
{{- define "live-avatar.gpuPod" -}}
{{- if ne .Values.gpu.mode "cpu" }}
{{- with .Values.gpu.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- if eq .Values.gpu.mode "dra" }}
resourceClaims:
  - name: gpus
    resourceClaimTemplateName: {{ include "live-avatar.componentName" (list . "gpus") }}
{{- end }}
{{- end }}
{{- end }}

{{/* Tolerations of a pipeline's pod. */}}
{{- define "live-avatar.tolerations" -}}
{{- $all := .Values.pipeline.tolerations -}}
{{- if ne .Values.gpu.mode "cpu" -}}
{{- $all = concat (list (dict "key" "nvidia.com/gpu" "operator" "Exists" "effect" "NoSchedule")) $all -}}
{{- end -}}
{{- with $all -}}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end -}}
{{- end }}

{{/* Affinity of a pipeline's pod: the products asked for, and what the operator adds. */}}
{{- define "live-avatar.affinity" -}}
{{- $affinity := deepCopy .Values.pipeline.affinity -}}
{{- if and .Values.pipeline.gpuProducts (ne .Values.gpu.mode "cpu") -}}
{{- $products := dict "key" "nvidia.com/gpu.product" "operator" "In" "values" .Values.pipeline.gpuProducts -}}
{{- $term := dict "matchExpressions" (list $products) -}}
{{- $required := dict "nodeSelectorTerms" (list $term) -}}
{{- $ours := dict "nodeAffinity" (dict "requiredDuringSchedulingIgnoredDuringExecution" $required) -}}
{{- $affinity = merge $affinity $ours -}}
{{- end -}}
{{- with $affinity -}}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end -}}
{{- end }}
