{{- define "paternoster.name" -}}
{{- $name := .Chart.Name }}
{{- ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) | trunc 53 | trimSuffix "-" }}
{{- end }}

{{- define "paternoster.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "paternoster.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{ include "paternoster.selector" . }}
app.kubernetes.io/version: {{ .Values.image.tag | default .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "paternoster.account" -}}
{{- ternary (include "paternoster.name" .) "default" .Values.serviceAccount.create | default "" | coalesce .Values.serviceAccount.name }}
{{- end }}

{{- define "paternoster.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "paternoster.secret" -}}
{{- if .Values.secrets.existing }}{{ .Values.secrets.existing }}
{{- else if or .Values.secrets.hfToken .Values.secrets.apiKey }}{{ include "paternoster.name" . }}
{{- end }}
{{- end }}

{{- define "paternoster.claim" -}}
{{- .Values.cache.claim.existing | default (printf "%s-cache" (include "paternoster.name" .)) }}
{{- end }}

{{/* A time as the server reads it (90, 90s, 2m, 1h, 500ms), in whole seconds. */}}
{{- define "paternoster.seconds" -}}
{{- $text := toString . }}
{{- if not (regexMatch "^[0-9]+(ms|s|m|h)?$" $text) }}{{ fail (printf "drain-timeout: %s is not a time such as 60s" $text) }}{{ end }}
{{- $number := regexFind "^[0-9]+" $text | int64 }}
{{- $unit := regexFind "[a-z]+$" $text }}
{{- if eq $unit "ms" }}{{ div (add $number 999) 1000 }}
{{- else if eq $unit "m" }}{{ mul $number 60 }}
{{- else if eq $unit "h" }}{{ mul $number 3600 }}
{{- else }}{{ $number }}
{{- end }}
{{- end }}

{{/* A flag's value as TOML; YAML's numbers arrive as floats, and JSON's strings and lists are TOML's. */}}
{{- define "paternoster.toml" -}}
{{- if and (kindIs "float64" .) (eq (floor .) .) }}{{ int64 . }}
{{- else }}{{ toJson . }}
{{- end }}
{{- end }}

{{/* Where probes and Prometheus ask: never the port that speaks TLS. */}}
{{- define "paternoster.plain" -}}
{{- ternary "health" "grpc" (not (empty .Values.tls.secret)) }}
{{- end }}

{{/* A probe of one service of grpc.health.v1; takes the root, the service and the times. */}}
{{- define "paternoster.probe" -}}
{{- $port := ternary .root.Values.service.healthPort .root.Values.service.port (not (empty .root.Values.tls.secret)) }}
grpc: {port: {{ $port }}, service: {{ .service }}}
{{ toYaml .times }}
{{- end }}

{{- define "paternoster.waiting" -}}
{{- $job := printf "namespace=\"%s\",job=\"%s\"" .Release.Namespace .Release.Name -}}
(sum(paternoster_requests_waiting{ {{- $job -}} }) or vector(0)) + (sum(paternoster_encode_inputs_waiting{ {{- $job -}} }) or vector(0))
{{- end }}

{{- define "paternoster.ports" -}}
{{- $tls := not (empty .Values.tls.secret) }}
- {name: grpc, port: {{ .Values.service.port }}, targetPort: grpc, protocol: TCP, appProtocol: {{ ternary "grpc" "kubernetes.io/h2c" $tls }}}
{{- if $tls }}
- {name: health, port: {{ .Values.service.healthPort }}, targetPort: health, protocol: TCP, appProtocol: kubernetes.io/h2c}
{{- end }}
{{- end }}

{{/* What the hub is asked with. */}}
{{- define "paternoster.hub" -}}
- {name: HF_HOME, value: /data}
{{- with include "paternoster.secret" . }}
- name: HF_TOKEN
  valueFrom:
    secretKeyRef: {name: {{ . }}, key: HF_TOKEN, optional: true}
{{- end }}
{{- end }}
