{{- define "latchkey.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "latchkey.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" }}
{{- else if contains (include "latchkey.name" .) .Release.Name }}
{{- .Release.Name | trunc 63 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "latchkey.name" .) | trunc 63 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "latchkey.selector" -}}
app.kubernetes.io/name: {{ include "latchkey.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "latchkey.labels" -}}
{{ include "latchkey.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "latchkey.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "latchkey.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "latchkey.image" -}}
{{- if .Values.image.digest }}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest }}
{{- else }}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) }}
{{- end }}
{{- end }}

{{- define "latchkey.postgres" -}}
{{- if eq .Values.database.type "postgres" }}true{{ end }}
{{- end }}

{{- define "latchkey.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "latchkey.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities: {drop: [ALL]}
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{/* The secrets as files, each only where it is used. */}}
{{- define "latchkey.secretSource" -}}
- secret:
    name: {{ .secret.name }}
    items: [{key: {{ .secret.key | quote }}, path: {{ .path }}}]
{{- end }}

{{- define "latchkey.secretVolume" -}}
name: secrets
projected:
  defaultMode: 0440
  sources:
    {{- include "latchkey.secretSource" (dict "secret" .Values.keyring.secret "path" "keyring") | nindent 4 }}
    {{- if .Values.pepper.enabled }}
    {{- include "latchkey.secretSource" (dict "secret" .Values.pepper.secret "path" "pepper") | nindent 4 }}
    {{- end }}
    {{- if include "latchkey.postgres" . }}
    {{- include "latchkey.secretSource" (dict "secret" .Values.database.secret "path" "database-url") | nindent 4 }}
    {{- end }}
    {{- if .Values.trust.enabled }}
    {{- include "latchkey.secretSource" (dict "secret" .Values.trust.secret "path" "ca.crt") | nindent 4 }}
    {{- end }}
    {{- if .serve }}
    {{- if .Values.rootKey.enabled }}
    {{- include "latchkey.secretSource" (dict "secret" .Values.rootKey.secret "path" "root-key") | nindent 4 }}
    {{- end }}
    {{- if .Values.redis.enabled }}
    {{- include "latchkey.secretSource" (dict "secret" .Values.redis.secret "path" "redis-url") | nindent 4 }}
    {{- end }}
    {{- end }}
{{- end }}
