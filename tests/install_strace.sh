#!/bin/sh
# Make strace available for the tests of power failures, which record what a command writes. Quick when it is there.
set -eu
if command -v strace >/dev/null 2>&1; then
    exit 0
fi
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
    echo "strace is missing: install the package 'strace' of your system, then run this again." >&2
    exit 1
fi
apt-get update -q
DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends strace
