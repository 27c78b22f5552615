#!/bin/sh
# Make PostgreSQL's programs available for the tests, which start a server of their own. Quick when they are there.
set -eu
if command -v pg_ctl >/dev/null 2>&1 || ls /usr/lib/postgresql/*/bin/pg_ctl >/dev/null 2>&1; then
    exit 0
fi
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
    echo "PostgreSQL is missing: install the package 'postgresql' of your system, then run this again." >&2
    exit 1
fi
apt-get update -q
# No cluster is wanted: the tests make their own in a temporary folder.
mkdir -p /etc/postgresql-common
[ -e /etc/postgresql-common/createcluster.conf ] || echo 'create_main_cluster = false' > /etc/postgresql-common/createcluster.conf
DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends postgresql
