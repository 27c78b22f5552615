#!/bin/sh
# Pin all packages with their hashes, and without any address, from pyproject.toml and requirements/cowrie.in.
set -eu
cd "$(dirname "$0")/.."
.venv/bin/python -m pip install --quiet pip-tools
compile() {
    .venv/bin/pip-compile --quiet --generate-hashes --no-emit-index-url --no-emit-find-links --no-emit-options \
        --no-header --no-annotate --strip-extras --allow-unsafe "$@"
}
compile --build-deps-for editable --build-deps-for wheel --extra analysis --extra postgres \
    -o requirements/runtime.txt pyproject.toml
compile --build-deps-for editable --build-deps-for wheel --extra analysis --extra postgres --extra dev \
    -o requirements/dev.txt pyproject.toml
compile -o requirements/cowrie.txt requirements/cowrie.in
