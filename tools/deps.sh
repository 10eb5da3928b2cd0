#!/bin/sh
# Installs what is missing to build and test on Debian 12, or says exactly what to install.
#     tools/deps.sh build|check
set -u
want="gcc make pkg-config libpcre2-dev libutf8proc-dev"
[ "${1:-build}" = check ] &&
    want="$want libcmocka-dev qemu-user gcc-aarch64-linux-gnu libc6-dev-arm64-cross clang-format-14"
missing=
for p in $want; do
    dpkg-query -W -f '${Status}' "$p" 2>/dev/null | grep -q 'install ok installed' || missing="$missing $p"
done
[ -z "$missing" ] && exit 0
if [ "$(id -u)" = 0 ]; then sudo=; elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then sudo=sudo; else
    echo "millrace: missing packages; install them with: sudo apt-get install$missing" >&2
    exit 1
fi
echo "millrace: installing$missing" >&2
{ $sudo apt-get update -qq && DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq $missing; } >&2 ||
    { echo "millrace: could not install:$missing" >&2; exit 1; }
