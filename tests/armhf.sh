#!/bin/sh
# The board package on 32-bit ARM, without a board:
#
#     sudo tests/armhf.sh FOLDER
#
# builds a Debian armhf root in FOLDER (kept, so a second call is quick), installs vtaflow there
# from pure-Python wheels, as no compiler is in it, starts `deploy serve --target emulator` under
# qemu-user, and lets the `deploy` of this machine put a model there and compare bytes with the
# simulator. Ends with status 77, and a line that says why, where something that it needs is missing.
#
# The packages are unpacked but not configured: qemu-user alone, without binfmt_misc and chroot,
# cannot run their scripts, and nothing here needs what those would do.
set -eu

SUITE=${SUITE:-bookworm} MIRROR=${MIRROR:-http://deb.debian.org/debian} PYTHON=${PYTHON:-python3}
PACKAGES=python3,python3-numpy,python3-pip
here=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
[ $# = 1 ] || { sed -n 's/^# \{0,1\}//; 2,7p' "$0" >&2; exit 2; }
mkdir -p "$1"
work=$(CDPATH='' cd -- "$1" && pwd)
root=$work/root libraries=$work/root/usr/lib/arm-linux-gnueabihf

missing() { echo "armhf.sh: skipped: $*" >&2; exit 77; }
say() { echo "armhf.sh: $*"; }

qemu=$(command -v qemu-arm-static || command -v qemu-arm) || missing "no qemu-arm (Debian: qemu-user-static)"
command -v debootstrap >/dev/null || missing "no debootstrap (Debian: debootstrap)"
command -v dpkg-deb >/dev/null || missing "no dpkg-deb (Debian: dpkg)"
[ "$(id -u)" = 0 ] || missing "debootstrap needs root"

unpack_root() {
    rm -rf "$root" "$work/unpacked"
    debootstrap --foreign --arch=armhf --variant=minbase --include="$PACKAGES" \
        "$SUITE" "$root" "$MIRROR" >"$work/debootstrap.log" 2>&1 ||
        { tail -n 5 "$work/debootstrap.log" >&2; missing "debootstrap cannot get $SUITE from $MIRROR"; }
    for package in $(cat "$root/debootstrap/base"); do
        for file in "$root/var/cache/apt/archives/${package}_"*.deb; do
            dpkg-deb --fsys-tarfile "$file" | tar -xf - -C "$root" --keep-directory-symlink
        done
    done
    for library in blas lapack; do  # what update-alternatives would choose
        ln -sf "$library/lib$library.so.3" "$libraries/lib$library.so.3"
    done
    touch "$work/unpacked"
}

arm_python() {
    exec env -u PYTHONPATH -u PYTHONHOME "$qemu" -L "$root" "$root/usr/bin/python3" "$@"
}

install_here() {
    rm -rf "$work/wheels" "$work/source"
    mkdir "$work/source"  # a build leaves files behind
    tar -cf - -C "$here" --exclude=./.git --exclude=./build . | tar -xf - -C "$work/source"
    "$PYTHON" -m pip wheel --quiet --no-deps --wheel-dir "$work/wheels" "$work/source"
    TORNADO_EXTENSION=0 "$PYTHON" -m pip wheel --quiet --no-deps --no-binary tornado \
        --wheel-dir "$work/wheels" tornado
    "$PYTHON" -m pip wheel --quiet --no-deps --wheel-dir "$work/wheels" networkx tqdm
    for wheel in "$work/wheels"/*; do
        case $wheel in *-none-any.whl) ;; *) echo "armhf.sh: $wheel needs a compiler" >&2; exit 1 ;; esac
    done
    (arm_python -m pip install --quiet --break-system-packages --root-user-action=ignore \
        --no-warn-script-location --force-reinstall --no-deps "$work/wheels"/*.whl)
    (arm_python -m pip check)
}

serve() {
    rm -rf "$work/store"
    (cd "$work" && arm_python -m vtaflow serve --target emulator --port 0 --store "$work/store") \
        >"$work/serve.out" 2>"$work/serve.err" &
    server=$!
    trap 'kill $server 2>/dev/null || true' EXIT INT TERM
    tries=0
    until url=$(grep -o 'http://[0-9.:]*' "$work/serve.out"); do
        tries=$((tries + 1))
        if [ $tries -gt 120 ] || ! kill -0 $server 2>/dev/null; then
            cat "$work/serve.err" >&2
            exit 1
        fi
        sleep 1
    done
}

[ -e "$work/unpacked" ] || { say "unpacking $SUITE for armhf"; unpack_root; }
[ ! -e "$root/usr/bin/gcc" ] && [ ! -e "$root/usr/bin/cc" ] || { say "a compiler is there" >&2; exit 1; }
say "installing"
install_here
say "$(arm_python -c 'import platform, sys, numpy
print(platform.machine(), f"{sys.maxsize.bit_length() + 1} bits, Python", platform.python_version(),
      "NumPy", numpy.__version__)')"
serve
say "serving on $url"
"$PYTHON" -m vtaflow "$here/models/fashion_mlp.onnx" --target pynq --host "$url"
kill -TERM $server
wait $server || { cat "$work/serve.err" >&2; exit 1; }
say "$(grep -c ' INFO .*POST .*/infer 200 ' "$work/serve.err") inference requests answered, ended well"
