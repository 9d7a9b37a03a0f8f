#!/bin/sh
# Puts an environment's manifests with the images of this tag into the cluster that kubectl is set
# up for, and tries them. Where that fails, what ran before comes back.
#   IMAGE_PREFIX=ghcr.io/OWNER/REPOSITORY SMOKE_URL=https://NAME scripts/deploy.sh ENV TAG
# Exit codes: 0 it runs; 1 it does not, and what ran before runs again, or nothing was changed;
# 2 wrong arguments; 3 there was no way back, or it failed.
set -eu

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
namespace=krakend-test
say() { printf '%s\n' "deploy: $*" >&2; }
wrong() { say "$*"; say "usage: IMAGE_PREFIX=... SMOKE_URL=... ${0##*/} ENV TAG"; exit 2; }

[ $# = 2 ] || wrong 'an environment and a tag are needed'
environment=$1 tag=$2
case $environment in local | dev | staging | prod) ;; *) wrong "no environment: $environment" ;; esac
# Both become YAML below.
case $tag in '' | [!A-Za-z0-9_]* | *[!A-Za-z0-9_.-]*) wrong "no tag of an image: $tag" ;; esac
case ${IMAGE_PREFIX-} in '' | *[!A-Za-z0-9_./:-]*) wrong "no name of images: ${IMAGE_PREFIX-}" ;; esac
case ${SMOKE_URL-} in http://* | https://*) ;; *) wrong "no URL: ${SMOKE_URL-}" ;; esac
for program in kubectl python3 timeout; do
    command -v "$program" >/dev/null || wrong "$program is missing"
done

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'say "INTERRUPTED: see what runs with kubectl -n $namespace rollout status"; exit 3' HUP INT TERM

ask() { timeout 60 kubectl --namespace "$namespace" --request-timeout 30s "$@"; }
# Longer than progressDeadlineSeconds (300), so that Kubernetes says first why it hangs.
wait_for() { timeout 360 kubectl --namespace "$namespace" rollout status "deployment/$1" --timeout 330s; }
smoke() { timeout 120 python3 "$root/scripts/smoke.py" "$SMOKE_URL"; }
runs() { wait_for echo && wait_for edge && smoke; }
config() { ask get configmap edge-config --ignore-not-found --output 'jsonpath={.data}'; }
# Not the revision, which is written some time after an apply.
template() { ask get deployment edge --ignore-not-found --output 'jsonpath={.spec.template}'; }
restart() { ask rollout restart deployment/edge; }
# A configuration that changes alone replaces no pod, and those that run read it up to a minute
# later: nobody would have tried it.
restart_for_config() {
    config_now=$(config) && template_now=$(template) || return
    if [ "$config_now" != "$config_before" ] && [ "$template_now" = "$template_before" ]; then
        say 'the configuration alone has changed: edge starts anew with it'
        restart
    fi
}
revision() {
    ask get deployment "$1" --ignore-not-found \
        --output 'jsonpath={.metadata.annotations.deployment\.kubernetes\.io/revision}'
}

# Over the environment in a copy: the tree stays as it was committed.
cp -R "$root/k8s" "$work/k8s"
mkdir "$work/k8s/deploy"
cat >"$work/k8s/deploy/Kustomization" <<KUSTOMIZATION
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
sortOptions: { order: legacy }
resources: [../$environment]
images:
  - { name: edge, newName: "$IMAGE_PREFIX/edge", newTag: "$tag" }
  - { name: echo, newName: "$IMAGE_PREFIX/echo", newTag: "$tag" }
KUSTOMIZATION

# What runs now. A cluster that cannot be asked ends the script here, with nothing changed.
if ! { echo_before=$(revision echo) && edge_before=$(revision edge) &&
    config_before=$(config) && template_before=$(template); }; then
    say 'the cluster cannot be asked; nothing was changed'
    exit 1
fi
say "before: echo at revision ${echo_before:-none}, edge at ${edge_before:-none}"

# 0: nothing differs, 1: something does, else it failed. Where the namespace is not there yet,
# there is nothing to compare with.
if [ -n "$echo_before$edge_before" ]; then
    code=0
    timeout 120 kubectl diff --kustomize "$work/k8s/deploy" || code=$?
    [ "$code" -le 1 ] || { say "kubectl diff failed ($code); nothing was changed"; exit 1; }
fi

if timeout 120 kubectl apply --kustomize "$work/k8s/deploy" && restart_for_config && runs; then
    say "$tag runs in $environment"
    exit
fi

say "$tag does not run in $environment"
ask get pods --output wide >&2 || true
if [ -z "$echo_before" ] || [ -z "$edge_before" ]; then
    say 'NOT ROLLED BACK: nothing ran before. See docs/operations.md, Failures.'
    exit 3
fi
say "rolling back: echo to revision $echo_before, edge to $edge_before"
back=yes
config_now=$(config) || config_now=unknown
# First the configuration, for pods of edge read it as they start. It has no revisions.
if [ -n "$config_before" ]; then
    printf '{"data":%s}' "$config_before" >"$work/config.json"
    ask patch configmap edge-config --type merge --patch-file "$work/config.json" || back=''
fi
# A deployment that is at that revision still skips it, with exit code 0.
ask rollout undo deployment/edge --to-revision "$edge_before" || back=''
# Pods that stayed may hold the new configuration for a minute more: all are to have the former one.
if [ "$config_now" != "$config_before" ]; then
    restart || back=''
fi
ask rollout undo deployment/echo --to-revision "$echo_before" || back=''
if [ -n "$back" ] && runs; then
    say "rolled back. Nothing else than pods and edge's configuration was: revert the commit."
    exit 1
fi
say 'THE ROLLBACK FAILED: look now. See docs/operations.md, Failures.'
exit 3
