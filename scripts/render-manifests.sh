#!/bin/sh
# Renders the kustomizations to the flat files that `kubectl apply -f FOLDER` takes.
# --check changes nothing, and fails where a file is not what would be rendered.
set -eu

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
. "$root/scripts/manifest-tools.sh"
install_tools
cd "$root"
rendered=$tools/rendered.yaml check='' stale=0

render() { # FOLDER FILE
    {
        echo "# Rendered from $1 by scripts/render-manifests.sh; change it there."
        timeout 60 "$tools/kubectl" kustomize "$1"
    } >"$rendered"
    if [ -z "$check" ]; then
        cat "$rendered" >"$2"
    elif ! cmp -s "$rendered" "$2"; then
        diff -u "$2" "$rendered" | head -n 40 || true
        say "$2 is stale: run scripts/render-manifests.sh"
        stale=1
    fi
}

case ${1-} in
'') ;;
--check) check=yes ;;
*) say "usage: ${0##*/} [--check]"; exit 2 ;;
esac

render k8s/base k8s/krakend-test.yaml
for environment in local dev staging prod; do
    render "k8s/$environment" "k8s/$environment/krakend-test.yaml"
done
render k8s/optional/monitoring k8s/optional/monitoring.yaml
exit "$stale"
