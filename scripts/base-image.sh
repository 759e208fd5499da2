#!/usr/bin/env bash
# Builds a container image with Python from Debian packages, for machines where images cannot or must not be pulled:
#
#     scripts/base-image.sh IMAGE...
#
# Each IMAGE is a name for Docker; an existing one is left alone. The image names its Python (label dev.hoistway.python,
# variable PYTHON_VERSION), so it can be the base of agents' images too. Needs root, mmdebstrap and a running Docker.
# The file system is built once and kept.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly suite=bookworm python=3.11
# What the published image has too: the C++ library, which numpy needs, and time zones.
readonly packages=python3,python3-pip,python3-venv,ca-certificates,libstdc++6,tzdata
readonly tarball=target/stand-ins/$suite-python-$(echo "$packages" | cksum | cut -d' ' -f1).tar

if [ $# -eq 0 ]; then
    echo "usage: scripts/base-image.sh IMAGE..." >&2
    exit 64
fi

mkdir -p "${tarball%/*}"
exec 9>"$tarball.lock"
flock 9
if [ ! -s "$tarball" ]; then
    echo "making $tarball from Debian $suite" >&2
    part=${tarball%.tar}.part.tar
    exclude=()
    for path in doc man locale info; do
        exclude+=(--dpkgopt="path-exclude=/usr/share/$path/*")
    done
    # No device nodes: published images have none either.
    mmdebstrap --quiet --variant=essential --skip=output/dev --include="$packages" "${exclude[@]}" \
        "$suite" "$part" </dev/null
    mv "$part" "$tarball"
fi

for image in "$@"; do
    if docker image inspect "$image" >/dev/null 2>&1; then
        continue
    fi
    docker import \
        --change "LABEL dev.hoistway.python=$python" \
        --change "ENV PYTHON_VERSION=$python PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" \
        --change 'CMD ["python3"]' \
        "$tarball" "$image" >/dev/null
    echo "made $image" >&2
done
