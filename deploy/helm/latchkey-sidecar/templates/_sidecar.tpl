{{/*
latchkey.sidecar: the container of a sidecar, an item of the pod's initContainers
(it is started before the others and runs beside them: restartPolicy Always).
latchkey.sidecar.volumes: the volumes that it needs, items of the pod's volumes.

Both take one dict:

  image             required; with a tag or a digest
  control           required; the control plane's URL, https://latchkey.latchkey:5539
  secret            required; name of a Secret with `key`: an access key with the scopes
                    {"customer": {"decision": true, "sidecar": true}}
  redis             true: the Secret has `redis-url` as well
  pepper            true: the Secret has `pepper`, the control planes' own
  trust             true: the Secret has `ca.crt`, the authorities by which the control
                    plane and Redis are known, in place of the public ones
  routes            name of a ConfigMap with `routes.yaml`, for proxies that ask
  port              listen on this port of the pod's loopback; without it on the socket
                    /run/latchkey/sidecar.sock, in the volume latchkey-socket, open to
                    group 65532: let whoever asks there have that group
                    (securityContext.supplementalGroups)
  metrics           true: metrics and health on port 5540 of the pod's address, else
                    on its loopback alone
  maxStaleness      how long it decides by what it knows without news; 30s
  maxClockSkew      how far its clock may be off; 5s
  insecureControl   true: control may be http://
  verificationKeys  list of public keys that alone may sign keys, rights and the feed
  resources         50m of processor and 64Mi to 256Mi of memory where absent

An argument of another name is refused.
*/}}
{{- define "latchkey.sidecar.check" -}}
{{- $known := list "image" "control" "secret" "redis" "pepper" "trust" "routes" "port" "metrics" "maxStaleness" "maxClockSkew" "insecureControl" "verificationKeys" "resources" }}
{{- range $name := keys . }}
{{- if not (has $name $known) }}{{ fail (printf "latchkey.sidecar: there is no argument %q" $name) }}{{ end }}
{{- end }}
{{- $given := . }}
{{- range $name := list "image" "control" "secret" }}
{{- if not (get $given $name) }}{{ fail (printf "latchkey.sidecar: %s is required" $name) }}{{ end }}
{{- end }}
{{- if and (not (hasPrefix "https://" .control)) (not .insecureControl) }}
{{- fail "latchkey.sidecar: control would get the key in plain text: use https://, or insecureControl" }}
{{- end -}}
{{- end }}

{{- define "latchkey.sidecar" -}}
{{- include "latchkey.sidecar.check" . -}}
- name: latchkey
  image: {{ .image | quote }}
  restartPolicy: Always
  args:
    - sidecar
    - {{ printf "--control=%s" .control | quote }}
    {{- if .insecureControl }}
    - --insecure-control
    {{- end }}
    {{- if .port }}
    - --listen=127.0.0.1:{{ .port }}
    {{- else }}
    - --listen=unix:/run/latchkey/sidecar.sock
    {{- end }}
    - --private-listen={{ ternary "0.0.0.0" "127.0.0.1" (default false .metrics) }}:5540
    - --data=/data
    - --max-staleness={{ default "30s" .maxStaleness }}
    - --max-clock-skew={{ default "5s" .maxClockSkew }}
    {{- if .pepper }}
    - --pepper-file=/run/secrets/latchkey/pepper
    {{- end }}
    {{- if .routes }}
    - --forward-routes=/etc/latchkey/routes.yaml
    {{- end }}
    {{- range .verificationKeys }}
    - {{ printf "--verification-key=%s" . | quote }}
    {{- end }}
  env:
    - name: LATCHKEY_KEY_FILE
      value: /run/secrets/latchkey/key
    {{- if .redis }}
    - name: LATCHKEY_REDIS_FILE
      value: /run/secrets/latchkey/redis-url
    {{- end }}
    {{- if .trust }}
    - name: SSL_CERT_FILE
      value: /run/secrets/latchkey/ca.crt
    {{- end }}
  {{- if .metrics }}
  ports:
    - {name: latchkey-metrics, containerPort: 5540}
  {{- end }}
  # Asked from inside, so that health need not be open to the network. The pod's
  # other containers start once the sidecar is there; the pod is ready once it is.
  startupProbe:
    exec: {command: [/latchkey, healthcheck, --url=http://127.0.0.1:5540/health/live]}
    periodSeconds: 1
    timeoutSeconds: 4
    failureThreshold: 60
  livenessProbe:
    exec: {command: [/latchkey, healthcheck, --url=http://127.0.0.1:5540/health/live]}
    periodSeconds: 10
    timeoutSeconds: 4
    failureThreshold: 3
  readinessProbe:
    exec: {command: [/latchkey, healthcheck, --url=http://127.0.0.1:5540/health/ready]}
    periodSeconds: 5
    timeoutSeconds: 4
    failureThreshold: 2
  resources:
    {{- if .resources }}
    {{- toYaml .resources | nindent 4 }}
    {{- else }}
    requests: {cpu: 50m, memory: 64Mi}
    limits: {memory: 256Mi}
    {{- end }}
  securityContext:
    runAsNonRoot: true
    runAsUser: 65532
    runAsGroup: 65532
    allowPrivilegeEscalation: false
    readOnlyRootFilesystem: true
    capabilities: {drop: [ALL]}
    seccompProfile: {type: RuntimeDefault}
  volumeMounts:
    - {name: latchkey-data, mountPath: /data}
    - {name: latchkey-secrets, mountPath: /run/secrets/latchkey, readOnly: true}
    {{- if not .port }}
    - {name: latchkey-socket, mountPath: /run/latchkey}
    {{- end }}
    {{- if .routes }}
    - {name: latchkey-routes, mountPath: /etc/latchkey, readOnly: true}
    {{- end }}
{{- end }}

{{- define "latchkey.sidecar.volumes" -}}
{{- include "latchkey.sidecar.check" . -}}
# The last good policies, of use when the container starts again.
- name: latchkey-data
  emptyDir: {sizeLimit: 256Mi}
# Mounted by the sidecar alone, which runs as a user of its own.
- name: latchkey-secrets
  secret:
    secretName: {{ .secret }}
    defaultMode: 0444
    items:
      - {key: key, path: key}
      {{- if .redis }}
      - {key: redis-url, path: redis-url}
      {{- end }}
      {{- if .pepper }}
      - {key: pepper, path: pepper}
      {{- end }}
      {{- if .trust }}
      - {key: ca.crt, path: ca.crt}
      {{- end }}
{{- if not .port }}
- name: latchkey-socket
  emptyDir: {medium: Memory, sizeLimit: 1Mi}
{{- end }}
{{- if .routes }}
- name: latchkey-routes
  configMap: {name: {{ .routes }}}
{{- end }}
{{- end }}
