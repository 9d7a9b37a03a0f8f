#!/bin/sh
# Makes the Secret app-secrets once, of random values, straight in the cluster: they are neither
# printed nor written to disk, and show in no list of processes. KUBECTL names another kubectl.
set -eu

namespace=${1:-krakend-test}
kubectl=${KUBECTL:-kubectl}

# One name would be told as such, and an error for what it is.
if [ -n "$($kubectl --namespace "$namespace" --request-timeout 30s get secret app-secrets \
    --ignore-not-found --output name)" ]; then
    echo "app-secrets is there in $namespace, and stays as it is."
    exit
fi

random() { head -c "$1" /dev/urandom | base64 | tr -d '\n'; }

$kubectl --namespace "$namespace" --request-timeout 30s create --filename - <<SECRET
apiVersion: v1
kind: Secret
metadata:
  name: app-secrets
type: Opaque
stringData:
  jwt-secret: "$(random 48)"
  api-key: "$(random 32)"
SECRET
