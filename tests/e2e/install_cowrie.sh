#!/bin/sh
# Installs the Cowrie that tests/e2e starts, outside the work tree, and prints the folder it lies in.
#
#   tests/e2e/install_cowrie.sh           install it if it is missing (quick when it is there already)
#   tests/e2e/install_cowrie.sh --where   only print where it is, or would be
#
# Cowrie refuses to run as root, so its files must be readable by another user even when the work tree is not: hence
# /var/tmp, and a name that holds the hash of requirements/cowrie.txt, so that a new pin is a new folder.
# COWRIEPROC_COWRIE_VENV overrides the place. Debian's own python3 is used for the same reason; another one is named
# by COWRIEPROC_COWRIE_PYTHON.
set -eu

tree=$(CDPATH='' cd -- "$(dirname -- "$0")/../.." && pwd)
pins="$tree/requirements/cowrie.txt"
hash=$(sha256sum "$pins" | cut -c1-12)
user=$(id -u)
venv=${COWRIEPROC_COWRIE_VENV:-/var/tmp/cowrieprocessor-cowrie-venv-$user-$hash}
python=${COWRIEPROC_COWRIE_PYTHON:-/usr/bin/python3}
# Written last: a folder without it is an interrupted installation.
done_mark="$venv/installed-$hash"

if [ "${1:-}" = "--where" ]; then
    printf '%s\n' "$venv"
    exit 0
fi

# /var/tmp is shared: whoever made a folder of this name before us could run code as us.
if [ -e "$venv" ] && { [ -L "$venv" ] || [ "$(stat -c %u "$venv")" != "$user" ]; }; then
    echo "install_cowrie.sh: $venv is not ours: remove it, or set COWRIEPROC_COWRIE_VENV to another folder" >&2
    exit 1
fi

if [ -f "$done_mark" ] && "$venv/bin/python" -c 'import cowrie' 2>/dev/null; then
    printf '%s\n' "$venv"
    exit 0
fi

if ! "$python" -c 'import venv, ensurepip' 2>/dev/null; then
    if [ "$user" -eq 0 ] && command -v apt-get >/dev/null; then
        apt-get update >&2
        DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends python3 python3-venv >&2
    else
        echo "install_cowrie.sh: $python cannot make virtual environments: as root, apt-get install python3-venv" >&2
        exit 1
    fi
fi

umask 022
if [ -e "$venv" ]; then
    # Only ever remove what looks like a virtual environment, whatever COWRIEPROC_COWRIE_VENV says.
    if [ -f "$venv/pyvenv.cfg" ] || [ -z "$(ls -A "$venv")" ]; then
        rm -rf -- "$venv"
    else
        echo "install_cowrie.sh: $venv exists and is not a virtual environment: not touched" >&2
        exit 1
    fi
fi
mkdir -p -- "$(dirname -- "$venv")"
mkdir -- "$venv" # fails if somebody was quicker: then it is not ours
"$python" -m venv "$venv"
# Every dependency is pinned in the file; --no-deps, because Debian's pip does not see that twisted==… also pins twisted[tls].
"$venv/bin/python" -m pip install -qq --no-deps --require-hashes --only-binary :all: -r "$pins" >&2
"$venv/bin/python" -m pip check >&2
: >"$done_mark"
printf '%s\n' "$venv"
