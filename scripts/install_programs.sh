#!/bin/sh
# Installs the programs that tests need and pip cannot install: a browser, for Airflow's pages, and a PostgreSQL server.
set -eu

have_browser() {
    for candidate in chromium chromium-browser google-chrome google-chrome-stable; do
        if command -v "$candidate" >/dev/null 2>&1; then
            return 0
        fi
    done
    return 1
}

have_postgresql() {
    # Debian installs the server programs outside PATH.
    command -v initdb >/dev/null 2>&1 || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1
}

missing=
have_browser || missing="$missing chromium"
have_postgresql || missing="$missing postgresql"
if [ -z "$missing" ]; then
    exit 0
fi

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "Installing Debian's$missing ..."
    # Tests start their own server: keep the package from creating and starting one.
    if ! have_postgresql && [ ! -e /etc/postgresql-common/createcluster.conf ]; then
        mkdir -p /etc/postgresql-common
        echo "create_main_cluster = false" >/etc/postgresql-common/createcluster.conf
    fi
    # shellcheck disable=SC2086  a list of packages
    if apt-get update -qq &&
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null; then
        exit 0
    fi
fi
# Tests that need the missing programs fail with a message; all others still run.
echo "Some tests need missing programs; on Debian: apt-get install$missing" >&2
