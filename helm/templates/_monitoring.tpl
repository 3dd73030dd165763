{{/* Label matchers that choose the series of one component of this release: list context, Service that is scraped. */}}
{{- define "live-avatar.series" -}}
namespace={{ (first .).Release.Namespace | quote }},job={{ include "live-avatar.componentName" . | quote }}
{{- end }}

{{/* Sessions in use / sessions that fit, over all pipelines. A pipeline has as much room as its fullest service. */}}
{{- define "live-avatar.usedRatio" -}}
{{- $series := include "live-avatar.series" (list . "pipeline") -}}
sum(max by (pod) (live_avatar_sessions_active{ {{- $series -}} })) / sum(min by (pod) (live_avatar_sessions_capacity{ {{- $series -}} }))
{{- end }}
