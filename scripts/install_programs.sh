#!/bin/sh
# Installs a browser for the tests of Airflow's pages where there is none. Tests find it by the same names.
set -eu

for candidate in chromium chromium-browser google-chrome google-chrome-stable; do
    if command -v "$candidate" >/dev/null 2>&1; then
        exit 0
    fi
done

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "Installing Debian's chromium ..."
    if apt-get update -qq &&
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium >/dev/null; then
        exit 0
    fi
fi
# The tests that need it fail and say so; all others still run.
echo "There is no browser for the tests of Airflow's pages; on Debian: apt-get install chromium" >&2
