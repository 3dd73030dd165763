{{/* TLS: names in certificates, the Secrets that hold them, and how services use them. */}}

{{/* The name by which services of this release know a component: list context, component. */}}
{{- define "live-avatar.tlsName" -}}
{{- $root := first . -}}
{{- printf "%s.%s.svc" (include "live-avatar.componentName" .) $root.Release.Namespace -}}
{{- end }}

{{/* A Secret with tls.crt, tls.key and ca.crt: list context, gateway, gateway-client or pipeline. */}}
{{- define "live-avatar.tlsSecret" -}}
{{- $root := first . -}}
{{- $given := $root.Values.tls.existingSecret -}}
{{- if ne $root.Values.tls.mode "existingSecret" -}}
{{- include "live-avatar.componentName" (list $root (printf "%s-tls" (last .))) -}}
{{- else if eq (last .) "pipeline" -}}{{ $given.pipeline }}
{{- else if eq (last .) "gateway" -}}{{ $given.gateway }}
{{- else -}}{{ default $given.gateway $given.gatewayClient }}
{{- end -}}
{{- end }}

{{/* Whether the certificate that clients see is by an issuer of the operator's. */}}
{{- define "live-avatar.hasIssuer" -}}
{{- if and .Values.tls.enabled (eq .Values.tls.mode "certManager") .Values.tls.certManager.issuer.name -}}true{{- end -}}
{{- end }}

{{/* Names and addresses at which clients reach the gateways, as YAML. An issuer outside knows none of the cluster's. */}}
{{- define "live-avatar.gatewayNames" -}}
{{- $names := list -}}
{{- with .Values.gateway.endpoint -}}
{{- $names = append $names (regexReplaceAll ":[0-9]+$" . "" | trimPrefix "[" | trimSuffix "]") -}}
{{- end -}}
{{- $names = concat $names .Values.tls.names -}}
{{- if not (include "live-avatar.hasIssuer" .) -}}
{{- $service := include "live-avatar.componentName" (list . "gateway") -}}
{{- $inside := list (include "live-avatar.tlsName" (list . "gateway")) $service (printf "%s.%s" $service .Release.Namespace) -}}
{{- $names = concat $inside $names (list "localhost" "127.0.0.1") -}}
{{- end -}}
{{- toYaml (uniq $names) -}}
{{- end }}

{{/* Flags of a server's certificate: folder. */}}
{{- define "live-avatar.tlsServer" -}}
- --server.tls.certificate={{ . }}/tls.crt
- --server.tls.key={{ . }}/tls.key
{{- end }}

{{/* Flags of connections to services of the pipeline: list context, folder. */}}
{{- define "live-avatar.tlsClient" -}}
- --tls.ca={{ last . }}/ca.crt
- --tls.certificate={{ last . }}/tls.crt
- --tls.key={{ last . }}/tls.key
- --tls.server-name={{ include "live-avatar.tlsName" (list (first .) "pipeline") }}
{{- end }}

{{/*
Flags of a service of the chain: list context, service. Its two ends are reached by gateways; the last stage goes to the
decoder as a gateway does. What is between them talks on loopback.
*/}}
{{- define "live-avatar.tlsChain" -}}
{{- $root := first . -}}
{{- $service := last . -}}
{{- if $root.Values.tls.enabled -}}
{{- if $service.outside }}
{{ include "live-avatar.tlsServer" "/etc/live-avatar-tls" }}
- --server.tls.client-ca=/etc/live-avatar-tls/ca.crt
- --server.tls.allowed-names={{ include "live-avatar.tlsName" (list $root "gateway") }}{{ if not $service.next }},{{ include "live-avatar.tlsName" (list $root "pipeline") }}{{ end }}
{{- end }}
{{- if eq (int $service.next) 99 }}
{{ include "live-avatar.tlsClient" (list $root "/etc/live-avatar-tls") }}
{{- end }}
{{- end -}}
{{- end }}

{{/* Flags of the gateway. */}}
{{- define "live-avatar.tlsGateway" -}}
{{- if .Values.tls.enabled }}
{{ include "live-avatar.tlsServer" "/etc/live-avatar-tls/server" }}
{{- if .Values.tls.clients.existingSecret }}
- --server.tls.client-ca=/etc/live-avatar-tls/clients/ca.crt
{{- with .Values.tls.clients.names }}
- --server.tls.allowed-names={{ join "," . }}
{{- end }}
{{- end }}
{{ include "live-avatar.tlsClient" (list . "/etc/live-avatar-tls/client") }}
{{- end }}
{{- end }}

{{/* Mounts of the gateway. */}}
{{- define "live-avatar.tlsGatewayMounts" -}}
{{- if .Values.tls.enabled }}
- {name: tls-server, mountPath: /etc/live-avatar-tls/server, readOnly: true}
- {name: tls-client, mountPath: /etc/live-avatar-tls/client, readOnly: true}
{{- if .Values.tls.clients.existingSecret }}
- {name: tls-clients, mountPath: /etc/live-avatar-tls/clients, readOnly: true}
{{- end }}
{{- end }}
{{- end }}

{{- define "live-avatar.tlsGatewayVolumes" -}}
{{- if .Values.tls.enabled }}
{{ include "live-avatar.tlsVolume" (list "tls-server" (include "live-avatar.tlsSecret" (list . "gateway"))) }}
{{ include "live-avatar.tlsVolume" (list "tls-client" (include "live-avatar.tlsSecret" (list . "gateway-client"))) }}
{{- with .Values.tls.clients.existingSecret }}
{{ include "live-avatar.tlsVolume" (list "tls-clients" .) }}
{{- end }}
{{- end }}
{{- end }}

{{/* A volume that the group of the pod may read: list name, Secret. */}}
{{- define "live-avatar.tlsVolume" -}}
- name: {{ first . }}
  secret:
    secretName: {{ last . }}
    defaultMode: 0440
{{- end }}

{{/* What a Secret of the cluster holds, encoded: list context, name. */}}
{{- define "live-avatar.secretData" -}}
{{- $there := lookup "v1" "Secret" (first .).Release.Namespace (last .) | default dict -}}
{{- get $there "data" | default dict | toJson -}}
{{- end }}
