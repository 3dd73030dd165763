{{/* Names and labels. A name leaves room for the longest suffix that a controller or we add to it. */}}

{{- define "live-avatar.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 36 | trimSuffix "-" -}}
{{- end }}

{{- define "live-avatar.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 36 | trimSuffix "-" -}}
{{- else if contains (include "live-avatar.name" .) .Release.Name -}}
{{- .Release.Name | trunc 36 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "live-avatar.name" .) | trunc 36 | trimSuffix "-" -}}
{{- end -}}
{{- end }}

{{/* Name of a component's objects: list context, component. */}}
{{- define "live-avatar.componentName" -}}
{{- printf "%s-%s" (include "live-avatar.fullname" (first .)) (last .) -}}
{{- end }}

{{/* What pods are selected by, which must never change: list context, component. */}}
{{- define "live-avatar.selector" -}}
{{- $root := first . -}}
app.kubernetes.io/name: {{ include "live-avatar.name" $root }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ last . }}
{{- end }}

{{/* Labels of every object: list context, component. */}}
{{- define "live-avatar.labels" -}}
{{- $root := first . -}}
{{ include "live-avatar.selector" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: live-avatar
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
{{- with $root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Metadata of an object: list context, component, suffix of its name. */}}
{{- define "live-avatar.metadata" -}}
{{- $root := index . 0 -}}
name: {{ include "live-avatar.componentName" (list $root (index . 2)) }}
namespace: {{ $root.Release.Namespace }}
labels:
  {{- include "live-avatar.labels" (list $root (index . 1)) | nindent 2 }}
{{- end }}

{{/* One of our images: list context, service. */}}
{{- define "live-avatar.image" -}}
{{- $root := first . -}}
{{- printf "%slive-avatar-%s:%s" $root.Values.image.registry (last .) (default $root.Chart.AppVersion $root.Values.image.tag) -}}
{{- end }}

{{- define "live-avatar.kubeVersion" -}}
{{- default .Capabilities.KubeVersion.Version .Values.kubeVersion -}}
{{- end }}

{{- define "live-avatar.serviceAccount" -}}
{{- default (include "live-avatar.componentName" (list . "gateway")) .Values.serviceAccount.name -}}
{{- end }}
