#!/bin/sh
# Run pytest on emulated ARM (aarch64), on Debian or Ubuntu: tests/arm.sh [ARGUMENTS OF PYTEST]
#
# QEMU translates the instructions of a single process; its system calls go to the kernel of the host. So neither a
# virtual machine nor root's rights are needed, only a folder with ARM's Python and libraries, where QEMU looks for each
# absolute path first; paths that are not in it are those of the host.
set -eu
cd "$(dirname "$0")/.."
root=$PWD/.arm
python=$root/usr/bin/python

qemu=$(command -v qemu-aarch64-static || command -v qemu-aarch64) && command -v apt-get >/dev/null || {
    echo "$0: needs Debian or Ubuntu with QEMU: apt-get install qemu-user-static" >&2
    exit 1
}

# The host's apt with a state of its own, in which nothing is installed, finds what Python depends on.
apt_arm() {
    apt-get -qq -o APT::Architecture=arm64 -o APT::Architectures::=arm64 -o Dir::State="$root/apt" \
        -o Dir::State::status="$root/apt/status" -o Dir::Cache="$root/apt" $sources "$@"
}

if [ ! "$root/complete" -nt pyproject.toml ]; then
    rm -rf "$root"
    mkdir -p "$root/apt/lists/partial" "$root/apt/archives/partial" "$root/usr/lib"
    ln -s usr/lib "$root/lib" # newer packages contain the dynamic linker in /usr/lib, but programs name it in /lib

    : >"$root/apt/status"
    sources=
    . /etc/os-release
    if [ "$ID" = ubuntu ]; then # it keeps the packages for ARM in an archive of their own
        echo "deb http://ports.ubuntu.com/ubuntu-ports $VERSION_CODENAME main universe" >"$root/apt/sources.list"
        sources="-o Dir::Etc::SourceList=$root/apt/sources.list -o Dir::Etc::SourceParts=/dev/null"
    fi
    apt_arm update
    apt_arm install --yes --download-only --no-install-recommends python3 python3-pip libgomp1 libstdc++6
    for package in "$root"/apt/archives/*.deb; do # unpacked, not installed: that would run programs of the package
        dpkg-deb --fsys-tarfile "$package" | tar -x --keep-directory-symlink -C "$root"
    done

    # To the host an emulated Python is this script. It names itself as the executable (-0), so that Python starts it
    # for its subprocesses, too: the host could not execute ARM's Python.
    cat >"$python" <<EOF
#!/bin/sh
exec $qemu -0 "\$0" -L "\${0%/usr/bin/python}" "\${0}3" "\$@"
EOF
    chmod +x "$python"

    # pip runs emulated, too, so that it chooses wheels for ARM. It would compile to bytecode what is never imported.
    "$python" -c '
import tomllib
project = tomllib.load(open("pyproject.toml", "rb"))["project"]
print(*project["dependencies"], *project["optional-dependencies"]["test"], sep="\n")' >"$root/requirements.txt"
    "$python" -m pip install --quiet --no-compile --only-binary=:all: \
        --target "$root/usr/lib/python3/dist-packages" -r "$root/requirements.txt"
    rm -r "$root/apt"
    touch "$root/complete"
fi

# Compiled kernels are kept apart from the host's: another version of Numba would overwrite those.
NUMBA_CACHE_DIR=$root/kernels exec "$python" -m pytest "$@"
