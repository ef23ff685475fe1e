#!/bin/sh
# Makes a virtual environment at $1 with what $2 and $3 pin, for the images and for .venv alike; and
# `install.sh --wheels FOLDER FILE...` downloads the wheels of what files pin, for make vendor.
# A CA bundle and a pip.conf are used in here only: as build secrets, or named by the variables.
set -eu

python=${LIGHTERAGE_PYTHON:-python3}
ca=${LIGHTERAGE_CA:-/run/secrets/ca}
pip_conf=${LIGHTERAGE_PIP_CONF:-/run/secrets/pip_conf}
wheels=${LIGHTERAGE_WHEELS:-/run/wheels}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

if [ -s "$ca" ]; then
    export PIP_CERT="$ca" SSL_CERT_FILE="$ca" REQUESTS_CA_BUNDLE="$ca"
fi
if [ -s "$pip_conf" ]; then
    export PIP_CONFIG_FILE="$pip_conf"
fi
settings=$("$python" "$(dirname "$0")/pip_settings.py" "$pip_conf")
eval "$settings"

# An environment of its own: the system's may be closed to pip (PEP 668).
"$python" -m venv --without-pip "$work/uv"
pip() {
    command=$1
    shift
    "$work/uv/bin/python" -m pip "$command" --quiet --disable-pip-version-check --no-input \
        --require-hashes --only-binary :all: "$@"
}

if [ "$1" = --wheels ]; then
    folder=$2
    shift 2
    # Together in one go: a package of several files is looked for once.
    for file; do
        set -- "$@" --requirement "$file"
        shift
    done
    pip download --no-deps --dest "$folder" "$@"
    exit
fi

target=$1
requirements=$2
more=${3:-}
set --
if [ "${OFFLINE:-}" = 1 ]; then
    # No index, and no cache, which would have a good copy of a wheel that is broken here.
    set -- --no-index --find-links "$wheels"
    export UV_NO_CACHE=1
fi

pip install "$@" --requirement "$(dirname "$requirements")/uv.txt"
# Copies, not links: the cache may be on another file system, and goes with the build.
export UV_LINK_MODE=copy UV_NO_PROGRESS=1 UV_PYTHON_DOWNLOADS=never
# Whether from an index or from a folder, and when: not in the image, which is the same.
export UV_NO_INSTALLER_METADATA=1
"$work/uv/bin/uv" venv --quiet --clear --python "$python" "$target"
"$work/uv/bin/uv" pip install --quiet --python "$target/bin/python" \
    --require-hashes --only-binary :all: "$@" --requirement "$requirements" \
    ${more:+--requirement "$more"}
# uv's own, open to every user.
rm -f "$target/.lock"
