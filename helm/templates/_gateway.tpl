{{/* The gateway's settings from the chart's values. */}}

{{- define "live-avatar.gatewayService" -}}
{name: gateway, values: gateway, slot: 0, outside: true}
{{- end }}

{{- define "live-avatar.gatewayArguments" -}}
{{- $gateway := .Values.gateway -}}
{{ include "live-avatar.serverArguments" (list . (include "live-avatar.gatewayService" . | fromYaml)) }}
- --server.reflection={{ $gateway.reflection }}
- --auth.mode={{ .Values.auth.mode }}
- --auth.insecure={{ .Values.auth.insecure }}
- --auth.operator-tenant={{ .Values.auth.operatorTenant }}
{{- if include "live-avatar.takesTokens" . }}
{{- range $name, $value := omit .Values.auth.oidc "caConfigMap" }}
{{- if not (empty $value) }}
- {{ printf "--auth.oidc.%s=%v" (kebabcase $name) $value | quote }}
{{- end }}
{{- end }}
{{- if .Values.auth.oidc.caConfigMap }}
- --auth.oidc.ca-file=/etc/live-avatar-oidc/ca.crt
{{- end }}
{{- end }}
{{- include "live-avatar.tlsGateway" . }}
{{- include "live-avatar.discoveryArguments" . }}
- --allow-shared-devices={{ .Values.gpu.allowShared }}
{{- if .Values.model.description }}
- --preset-file={{ include "live-avatar.preset" . }}
{{- end }}
{{- with $gateway.endpoint }}
- --endpoint={{ . }}
{{- end }}
{{- include "live-avatar.relayArguments" . }}
- --store.lease-seconds={{ $gateway.store.leaseSeconds }}
- --store.grace-seconds={{ $gateway.store.graceSeconds }}
- --store.retention-seconds={{ $gateway.store.retentionSeconds }}
- --limits.max-whole-file-seconds={{ .Values.audioEncoder.maxWholeFileSeconds }}
{{- range $name, $value := $gateway.limits }}
- --limits.{{ kebabcase $name }}={{ $value }}
{{- end }}
{{- range $name, $value := $gateway.live }}
- --live.{{ kebabcase $name }}={{ $value }}
{{- end }}
{{- range $name, $value := $gateway.quotas }}
- --quotas.{{ kebabcase $name }}={{ int64 $value }}
{{- end }}
- --usage.interval-seconds={{ $gateway.usage.intervalSeconds }}
- --usage.retention-days={{ $gateway.usage.retentionDays }}
- --usage.max-entries={{ int64 $gateway.usage.maxEntries }}
{{- with $gateway.usage.webhook.url }}
- --usage.webhook-url={{ . }}
{{- end }}
{{- if $gateway.signing.existingSecret }}
- --signing.certificate=/etc/live-avatar-signing/certificate.pem
- --signing.key=/etc/live-avatar-signing/key.pem
{{- end }}
- {{ printf "--disclosure.text=%s" $gateway.disclosure.text | quote }}
{{- end }}

{{/* Where other gateways reach it, with the certificate that it shows to pipelines too. */}}
{{- define "live-avatar.relayPort" -}}7300{{- end }}

{{- define "live-avatar.relayArguments" -}}
{{- if include "live-avatar.hasRelays" . }}
- --relay.host={{ .Values.listenAddress }}
- --relay.port={{ include "live-avatar.relayPort" . }}
{{- range $name, $value := .Values.gateway.relay }}
- --relay.{{ kebabcase $name }}={{ $value }}
{{- end }}
{{- if contains ":" .Values.listenAddress }}
- --relay.address=[$(POD_IP)]:{{ include "live-avatar.relayPort" . }}
{{- else }}
- --relay.address=$(POD_IP):{{ include "live-avatar.relayPort" . }}
{{- end }}
{{- if .Values.tls.enabled }}
{{- $name := include "live-avatar.tlsName" (list . "gateway") }}
- --relay.tls.certificate=/etc/live-avatar-tls/client/tls.crt
- --relay.tls.key=/etc/live-avatar-tls/client/tls.key
- --relay.tls.client-ca=/etc/live-avatar-tls/client/ca.crt
- --relay.tls.allowed-names={{ $name }}
- --relay.server-name={{ $name }}
{{- end }}
{{- end }}
{{- end }}

{{/* Whether gateways share a store, so that one may hold the sessions that another is asked for. */}}
{{- define "live-avatar.hasRelays" -}}{{- if ne .Values.redis.mode "none" -}}true{{- end -}}{{- end }}

{{/* How it finds pipelines, and who reaps the sessions of vanished gateways. */}}
{{- define "live-avatar.discoveryArguments" -}}
{{- $service := include "live-avatar.componentName" (list . "pipeline") -}}
{{- $ports := printf "%s/%s" (include "live-avatar.grpcPort" (dict "slot" 0)) (include "live-avatar.grpcPort" (dict "slot" 99)) -}}
{{- if eq .Values.gateway.discovery "kubernetes" }}
- --discovery.service={{ .Release.Namespace }}/{{ $service }}
- --discovery.head-port-name=audio-encoder
- --discovery.decoder-port-name=vae-decoder
- --discovery.lease={{ .Release.Namespace }}/{{ include "live-avatar.componentName" (list . "reaper") }}
{{- else if eq .Values.gateway.discovery "dns" }}
- --discovery.dns={{ $service }}:{{ $ports }}
{{- else }}
{{- $addresses := list -}}
{{- range $index := until (int .Values.pipeline.replicas) -}}
{{- $host := printf "%s-%d.%s" $service $index $service -}}
{{- $addresses = append $addresses (printf "%s:%s" $host (replace "/" (printf "/%s:" $host) $ports)) -}}
{{- end }}
- --pipelines={{ join "," $addresses }}
{{- end }}
{{- end }}

{{/* Environment that comes from Secrets. */}}
{{- define "live-avatar.gatewaySecrets" -}}
- name: LIVE_AVATAR__TOKEN_KEY
  valueFrom:
    secretKeyRef:
      name: {{ include "live-avatar.authSecret" . }}
      key: token-key
{{- if or .Values.auth.existingSecret .Values.auth.previousTokenKey }}
- name: LIVE_AVATAR__PREVIOUS_TOKEN_KEY
  valueFrom:
    secretKeyRef:
      name: {{ include "live-avatar.authSecret" . }}
      key: previous-token-key
      optional: {{ not (empty .Values.auth.existingSecret) }}
{{- end }}
{{- with .Values.gateway.usage.webhook.existingSecret }}
- name: LIVE_AVATAR__USAGE__WEBHOOK_SECRET
  valueFrom:
    secretKeyRef:
      name: {{ . }}
      key: webhook-secret
{{- end }}
{{- if include "live-avatar.takesKeys" . }}
- name: LIVE_AVATAR__AUTH__BOOTSTRAP_KEY
  {{- include "live-avatar.apiKey" . | nindent 2 }}
{{- end }}
{{- if eq .Values.redis.mode "own" }}
- name: LIVE_AVATAR__STORE__URL
  valueFrom:
    secretKeyRef:
      name: {{ default (include "live-avatar.componentName" (list . "redis")) .Values.redis.own.existingSecret }}
      key: url
{{- else if eq .Values.redis.mode "external" }}
- name: LIVE_AVATAR__STORE__URL
  {{- if .Values.redis.external.existingSecret }}
  valueFrom:
    secretKeyRef:
      name: {{ .Values.redis.external.existingSecret }}
      key: url
  {{- else }}
  value: {{ .Values.redis.external.url | quote }}
  {{- end }}
{{- end }}
{{- end }}

{{/* Whether a cluster can be asked what it has: every namespace has this account, and every cluster this namespace. */}}
{{- define "live-avatar.seesCluster" -}}
{{- if or (lookup "v1" "ServiceAccount" .Release.Namespace "default") (lookup "v1" "Namespace" "" "kube-system") -}}true{{- end -}}
{{- end }}

{{/* What the cluster has in a Secret; empty: nothing. List: context, Secret, key. */}}
{{- define "live-avatar.stored" -}}
{{- $root := index . 0 -}}
{{- $there := lookup "v1" "Secret" $root.Release.Namespace (index . 1) | default dict -}}
{{- get ($there.data | default dict) (index . 2) | b64dec -}}
{{- end }}

{{/* A secret that is made once: what the cluster has, or a new one. List: context, Secret, key. */}}
{{- define "live-avatar.kept" -}}
{{- include "live-avatar.stored" . | default (randAlphaNum 48) -}}
{{- end }}

{{/* An API key that is made once, see live-avatar.kept. */}}
{{- define "live-avatar.keptApiKey" -}}
{{- include "live-avatar.stored" . | default (printf "la_%s_%s" (randAlphaNum 16 | lower) (randAlphaNum 48)) -}}
{{- end }}

{{/* Secret with the keys token-key, api-key and previous-token-key. */}}
{{- define "live-avatar.authSecret" -}}
{{- default (include "live-avatar.componentName" (list . "gateway")) .Values.auth.existingSecret -}}
{{- end }}

{{/* Whether gateways accept API keys. */}}
{{- define "live-avatar.takesKeys" -}}
{{- if has "keys" (splitList "," .Values.auth.mode) -}}true{{- end -}}
{{- end }}

{{/* Whether tokens of an OIDC issuer are accepted. */}}
{{- define "live-avatar.takesTokens" -}}
{{- if has "oidc" (splitList "," .Values.auth.mode) -}}true{{- end -}}
{{- end }}

{{/* The operator's API key, as the value of an environment variable. */}}
{{- define "live-avatar.apiKey" -}}
valueFrom:
  secretKeyRef:
    name: {{ include "live-avatar.authSecret" . }}
    key: api-key
    optional: {{ not (empty .Values.auth.existingSecret) }}
{{- end }}
