{{- define "hypergpu.pod" -}}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 49999
  runAsGroup: 49999
  fsGroup: 49999
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: { type: RuntimeDefault }
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
{{- range . }}
  - name: {{ . }}
{{- end }}
{{- end }}
{{- end }}

{{- define "hypergpu.container" -}}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: { drop: [ALL] }
{{- end }}

{{- define "hypergpu.claim" -}}
accessModes: [ReadWriteOnce]
{{- with .root.Values.storageClass }}
storageClassName: {{ . }}
{{- end }}
resources: { requests: { storage: {{ .size }} } }
{{- end }}

{{- /* Port at which a chain's endpoint answers: the one that is given, else that of the URL in the run's settings. */}}
{{- define "hypergpu.chainPort" -}}
{{- $url := dig "blockchain" "rpc_url" "" .Values.submit.config | urlParse }}
{{- $port := regexFind "[0-9]+$" (regexFind ":[0-9]+$" $url.host) }}
{{- .Values.coordinator.rpcPort | default $port | default (ternary 80 443 (has $url.scheme (list "http" "ws"))) | int }}
{{- end }}
