#!/bin/sh
# Usage: install.sh FOLDER [INTERPRETER]
# Creates the virtual environment FOLDER with this project and everything that its demo and tests need.
# INTERPRETER is Python 3.11, 3.12 or 3.13; by default, the first one found.
set -eu

venv=$1
candidates=${2:-python3.11 python3.12 python3.13 python3}

python=
for candidate in $candidates; do
    if command -v "$candidate" >/dev/null 2>&1 &&
        "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
        python=$candidate
        break
    fi
done
if [ -z "$python" ]; then
    echo "Python 3.11, 3.12 or 3.13 is required (tried: $candidates); on Debian: apt-get install python3 python3-venv" >&2
    exit 1
fi

# Debian packages ensurepip, which venv needs, separately.
if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        echo "Installing Debian's python$version-venv ..."
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "python$version-venv" >/dev/null
    else
        echo "venv is missing; on Debian: apt-get install python$version-venv" >&2
        exit 1
    fi
fi

if ! "$venv/bin/python" -c '' 2>/dev/null; then
    echo "Creating $venv ..."
    "$python" -m venv --clear "$venv"
fi
echo "Installing into $venv (a few minutes the first time) ..."
# Python compiles modules on import, and only a small part of what is installed is ever imported.
"$venv/bin/python" -m pip install -qq --no-compile --disable-pip-version-check --constraint constraints.txt --editable '.[test]'
