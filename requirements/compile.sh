#!/bin/sh
# Pin all packages anew with their hashes, and without any address, from pyproject.toml and requirements/cowrie.in.
set -eu
cd "$(dirname "$0")/.."
uv() { .venv/bin/python -m uv --quiet "$@"; }
export_group() { uv export --frozen --no-emit-project --no-header --no-annotate --all-extras --group build "$@" >/dev/null; }
rm -f uv.lock # ignored by git: it records where packages were downloaded from
uv lock
export_group --no-dev -o requirements/runtime.txt
export_group --group dev -o requirements/dev.txt
uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links \
    --no-header --no-annotate -o requirements/cowrie.txt requirements/cowrie.in >/dev/null
