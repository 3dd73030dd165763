{{/* What no schema can say: rules over several values. Each fails with one readable line. */}}

{{- define "live-avatar.check" -}}
{{- include "live-avatar.checkSteps" . -}}
{{- include "live-avatar.checkGpus" . -}}
{{- include "live-avatar.checkSharedDevices" . -}}
{{- include "live-avatar.checkWeights" . -}}
{{- include "live-avatar.checkStore" . -}}
{{- include "live-avatar.checkCallers" . -}}
{{- include "live-avatar.checkSecrets" . -}}
{{- include "live-avatar.checkWebhook" . -}}
{{- include "live-avatar.checkTls" . -}}
{{- include "live-avatar.checkScaling" . -}}
{{- include "live-avatar.checkTrainer" . -}}
{{- end }}

{{- define "live-avatar.checkSteps" -}}
{{- $due := 0 -}}
{{- range $index, $stage := .Values.stages -}}
{{- range $step := $stage.steps -}}
{{- if ne (int $step) $due -}}
{{- fail (printf "stages[%d].steps: step %d comes where step %d is due; the stages perform the steps 0, 1, 2 and so on in this order" $index (int $step) $due) -}}
{{- end -}}
{{- $due = add1 $due | int -}}
{{- end -}}
{{- end -}}
{{- end }}

{{- define "live-avatar.checkGpus" -}}
{{- $encoder := .Values.audioEncoder.gpu -}}
{{- if and (eq .Values.gpu.mode "cpu") (ne $encoder "none") -}}
{{- fail "audioEncoder.gpu: gpu.mode cpu has no GPU to give; it must be none" -}}
{{- end -}}
{{- if and (eq .Values.gpu.mode "devicePlugin") (eq $encoder "decoder") -}}
{{- fail "audioEncoder.gpu: a device plugin gives a card to one container alone; take gpu.mode dra or shared, or audioEncoder.gpu own or none" -}}
{{- end -}}
{{- if and (eq $encoder "decoder") (not .Values.gpu.allowShared) -}}
{{- fail "audioEncoder.gpu: decoder puts two services on one card; allow it with gpu.allowShared" -}}
{{- end -}}
{{- end }}

{{- define "live-avatar.checkSharedDevices" -}}
{{- if and (eq .Values.gpu.mode "shared") (not .Values.gpu.allowShared) -}}
{{- $taken := dict -}}
{{- range $service := include "live-avatar.services" . | fromYamlArray -}}
{{- if $service.gpu -}}
{{- $device := toString $service.device -}}
{{- if hasKey $taken $device -}}
{{- fail (printf "gpu.mode shared: %s and %s use device %s; give them different ones or allow it with gpu.allowShared" (get $taken $device) $service.name $device) -}}
{{- end -}}
{{- $_ := set $taken $device $service.name -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end }}

{{- define "live-avatar.checkWeights" -}}
{{- if and (eq .Values.weights.source "random") (eq .Values.model.preset "S2V_14B") -}}
{{- fail "weights.source: random weights are for a small system alone, not for S2V_14B" -}}
{{- end -}}
{{- if and (eq .Values.weights.source "package") (not (has .Values.model.preset (list "TINY" "TINY_128"))) -}}
{{- fail "weights.source: the images hold weights of TINY and TINY_128 alone" -}}
{{- end -}}
{{- if and (has .Values.weights.source (list "image" "copy")) (not .Values.weights.image.reference) -}}
{{- fail (printf "weights.image.reference: weights.source %s needs the image that holds the weights" .Values.weights.source) -}}
{{- end -}}
{{- if and (eq .Values.denoiseStage.linear "fp8") (not .Values.denoiseStage.fp8Report) -}}
{{- fail "denoiseStage.fp8Report: linear fp8 needs the report of the gate about these weights" -}}
{{- end -}}
{{- with .Values.model.description -}}
{{- if ne (toString .name) $.Values.model.preset -}}
{{- fail (printf "model.preset: %s is not the name in model.description, %s" $.Values.model.preset (toString .name)) -}}
{{- end -}}
{{- end -}}
{{- end }}

{{- define "live-avatar.checkStore" -}}
{{- if and (eq .Values.redis.mode "none") (gt (int .Values.gateway.replicas) 1) -}}
{{- fail "gateway.replicas: several gateways need a Redis; redis.mode is none" -}}
{{- end -}}
{{- $external := .Values.redis.external -}}
{{- if and (eq .Values.redis.mode "external") (not (or $external.url $external.existingSecret)) -}}
{{- fail "redis.external: redis.mode external needs url or existingSecret" -}}
{{- end -}}
{{- if and .Values.autoscaling.enabled (eq .Values.gateway.discovery "static") -}}
{{- fail "gateway.discovery: with autoscaling pipelines come and go; take kubernetes or dns" -}}
{{- end -}}
{{- end }}

{{- define "live-avatar.checkCallers" -}}
{{- if and (eq .Values.auth.mode "none") (not .Values.auth.insecure) -}}
{{- fail "auth.mode: none accepts everybody who reaches the gateways; take keys or oidc, or accept that with auth.insecure" -}}
{{- end -}}
{{- $oidc := .Values.auth.oidc -}}
{{- if include "live-avatar.takesTokens" . -}}
{{- if not (and $oidc.issuer $oidc.audience) -}}
{{- fail "auth.oidc: auth.mode oidc needs issuer and audience" -}}
{{- end -}}
{{- if eq (empty $oidc.tenant) (empty $oidc.tenantClaim) -}}
{{- fail "auth.oidc: give exactly one of tenant and tenantClaim" -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/* Without a cluster to ask, each rendering would make other secrets. */}}
{{- define "live-avatar.checkSecrets" -}}
{{- $missing := list -}}
{{- if not (or .Values.auth.tokenKey .Values.auth.existingSecret) -}}
{{- $missing = append $missing "auth.tokenKey or auth.existingSecret" -}}
{{- end -}}
{{- if and (include "live-avatar.takesKeys" .) (not (or .Values.auth.apiKey .Values.auth.existingSecret)) -}}
{{- $missing = append $missing "auth.apiKey or auth.existingSecret" -}}
{{- end -}}
{{- if and (eq .Values.redis.mode "own") (not (or .Values.redis.own.password .Values.redis.own.existingSecret)) -}}
{{- $missing = append $missing "redis.own.password or redis.own.existingSecret" -}}
{{- end -}}
{{- if and $missing (not (include "live-avatar.seesCluster" .)) -}}
{{- fail (printf "%s: without a cluster to ask (helm template, Argo CD, --dry-run=client) each rendering would make other secrets; give them, for example the output of `openssl rand -hex 24` each, and la_$(openssl rand -hex 8)_$(openssl rand -hex 32) as auth.apiKey" (join "; " $missing)) -}}
{{- end -}}
{{- end }}

{{- define "live-avatar.checkWebhook" -}}
{{- $webhook := .Values.gateway.usage.webhook -}}
{{- if ne (empty $webhook.url) (empty $webhook.existingSecret) -}}
{{- fail "gateway.usage.webhook: url and existingSecret belong together" -}}
{{- end -}}
{{- end }}

{{- define "live-avatar.checkTls" -}}
{{- $tls := .Values.tls -}}
{{- if $tls.enabled -}}
{{- if and (eq $tls.mode "own") (not (include "live-avatar.seesCluster" .)) -}}
{{- fail "tls.mode: own makes certificates in the cluster and keeps them; without a cluster to ask (helm template, Argo CD, --dry-run=client) each rendering would make others; take certManager or existingSecret" -}}
{{- end -}}
{{- if and (eq $tls.mode "existingSecret") (not (and $tls.existingSecret.gateway $tls.existingSecret.pipeline)) -}}
{{- fail "tls.existingSecret: tls.mode existingSecret needs gateway and pipeline" -}}
{{- end -}}
{{- if and (include "live-avatar.hasIssuer" .) (not (or .Values.gateway.endpoint $tls.names)) -}}
{{- fail "tls.certManager.issuer: an issuer of your own needs names to certify: gateway.endpoint or tls.names" -}}
{{- end -}}
{{- if and $tls.clients.names (not $tls.clients.existingSecret) -}}
{{- fail "tls.clients.names: they need tls.clients.existingSecret, without it clients show no certificate" -}}
{{- end -}}
{{- end -}}
{{- end }}

{{- define "live-avatar.checkScaling" -}}
{{- $scaling := .Values.autoscaling -}}
{{- if and $scaling.enabled (lt (int $scaling.maxReplicas) (int $scaling.minReplicas)) -}}
{{- fail (printf "autoscaling.maxReplicas: %d is less than minReplicas, %d" (int $scaling.maxReplicas) (int $scaling.minReplicas)) -}}
{{- end -}}
{{- end }}

{{- define "live-avatar.checkTrainer" -}}
{{- if and (eq .Values.trainer.backend "job") (gt (int .Values.trainer.nodes) 1) -}}
{{- fail "trainer.nodes: a Job trains on one node; several need trainer.backend trainJob" -}}
{{- end -}}
{{- if and .Values.prepare.enabled (eq .Values.weights.source "random") -}}
{{- fail "weights.source: training data are made with the weights of the encoders; random ones will not do" -}}
{{- end -}}
{{- end }}
