#!/bin/sh
# Every check of k8s/ and istio/ that needs no cluster: what is rendered, what the APIs take, and
# what edge and echo really have. The argument is the folder of their binaries; without it, where
# cargo's debug builds go.
set -eu

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
. "$root/scripts/manifest-tools.sh"
if [ "$(uname -sm)" != 'Linux x86_64' ]; then
    say 'Not Linux on x86-64: the checks of the manifests are SKIPPED.'
    exit 0
fi
binaries=${1:-${CARGO_TARGET_DIR:-$root/target}/debug}
for program in edge echo-server; do
    if [ ! -x "$binaries/$program" ]; then
        say "$binaries/$program is not there: cargo build -p edge -p echo"
        exit 1
    fi
done

"$root/scripts/render-manifests.sh" --check
install_tools
export PYTHONDONTWRITEBYTECODE=1
timeout 300 "$python" "$root/.ci/manifests/schemas.py" "$tools/venv/bin/node" "$tools/kinds.mjs"
timeout 300 "$python" "$root/.ci/manifests/claims.py" "$binaries"
