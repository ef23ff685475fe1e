#!/bin/sh
# Makes a virtual environment at $1 with what $2 pins, for the images and for .venv alike; and
# `install.sh --wheels FOLDER FILE...` brings the wheels of what files pin, for make vendor.
# A CA bundle and a pip.conf are used in here only: as build secrets, or named by the variables.
set -eu

python=${LIGHTERAGE_PYTHON:-python3}
ca=${LIGHTERAGE_CA:-/run/secrets/ca}
pip_conf=${LIGHTERAGE_PIP_CONF:-/run/secrets/pip_conf}
wheels=${LIGHTERAGE_WHEELS-/run/wheels}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

if [ -s "$ca" ]; then
    export PIP_CERT="$ca" SSL_CERT_FILE="$ca" REQUESTS_CA_BUNDLE="$ca"
fi
if [ -s "$pip_conf" ]; then
    export PIP_CONFIG_FILE="$pip_conf"
fi

"$python" -m venv --without-pip "$work/uv"
# pip comes out of the wheel that Python has for its environments: to install it there takes 3 s. uv
# reads no pip.conf: what it needs of one is handed over in its own variables.
settings=$("$python" - "$work/pip" "$pip_conf" <<'END'
import configparser, ensurepip, pathlib, sys, sysconfig, zipfile
bundled = pathlib.Path(ensurepip.__file__).with_name("_bundled")
folder = pathlib.Path(sysconfig.get_config_var("WHEEL_PKG_DIR") or bundled)
zipfile.ZipFile(max(folder.glob("pip-*.whl"))).extractall(sys.argv[1])
config = configparser.RawConfigParser()
try:
    config.read(sys.argv[2], encoding="utf-8")
except configparser.Error as error:
    sys.exit(f"pip.conf: {str(error).splitlines()[0]}")
for name in ("index-url", "extra-index-url", "trusted-host"):
    values = [config.get(part, key) for part in ("global", "install") if part in config
              for key in config[part] if key.replace("_", "-") == name]
    print(*(values[-1].split() if values else []))
END
)
setting() { printf '%s\n' "$settings" | sed -n "$1p"; }
index=${PIP_INDEX_URL:-$(setting 1)}
extra=${PIP_EXTRA_INDEX_URL:-$(setting 2)}
trusted=${PIP_TRUSTED_HOST:-$(setting 3)}
if [ -n "$index" ]; then export UV_DEFAULT_INDEX="$index"; fi
if [ -n "$extra" ]; then export UV_INDEX="$extra"; fi
if [ -n "$trusted" ]; then export UV_INSECURE_HOST="$trusted"; fi

pip() {
    command=$1
    shift
    PYTHONPATH="$work/pip" "$work/uv/bin/python" -m pip "$command" --quiet \
        --disable-pip-version-check --no-input --require-hashes --only-binary :all: "$@"
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
# Where wheels lie, as in a build with OFFLINE=1, they are all there is: no index is asked, and no
# cache, which would have a good copy of a wheel that is broken here.
set -- "$wheels"/*.whl
if [ -e "$1" ]; then
    set -- --no-index --find-links "$wheels"
    export UV_NO_CACHE=1
else
    set --
fi

pip install "$@" --requirement "$(dirname "$requirements")/uv.txt"
# Copies, not links: the cache may be on another file system, and goes with the build.
export UV_LINK_MODE=copy UV_NO_PROGRESS=1 UV_PYTHON_DOWNLOADS=never
# Whether from an index or from a folder, and when: not in the image, which is the same.
export UV_NO_INSTALLER_METADATA=1
"$work/uv/bin/uv" venv --quiet --clear --python "$python" "$target"
"$work/uv/bin/uv" pip install --quiet --python "$target/bin/python" \
    --require-hashes --only-binary :all: "$@" --requirement "$requirements"
# uv's own, open to every user.
rm -f "$target/.lock"
