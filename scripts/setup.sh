#!/usr/bin/env bash
# Makes .venv and installs litmaml there as constraints.txt pins it. Run again, it installs only what changed.
#
#   PYTHON=python3.12      the interpreter for a new .venv; without it, the first of python3, python3.11, ... that will do
#   TORCH_INDEX_URL=URL    where a new .venv gets torch from. For a machine without a GPU (the default build for Linux
#                          carries CUDA, several gigabytes): https://download.pytorch.org/whl/cpu
#   LITMAML_EXTRAS=LIST    extras of pyproject.toml to install (default: dev,learn2learn)
#   LITMAML_REQUIRE_LEARN2LEARN=1    fail where learn2learn cannot be built (always so where CI is set)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

extras=${LITMAML_EXTRAS-dev,learn2learn}
stamp=.venv/litmaml-installed
venv_python=.venv/bin/python
verbosity=--quiet
if [[ -t 1 ]]; then verbosity=--progress-bar=on; fi # at a terminal pip shows its downloads

say() { echo "setup: $*"; }
die() { say "$*" >&2; exit 1; }

# 3.11 to 3.14: those that the pinned torch has wheels for.
suits() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' 2>/dev/null; }

find_python() {
    local name names=(python3 python3.11 python3.12 python3.13 python3.14)
    if [[ -n ${PYTHON:-} ]]; then names=("$PYTHON"); fi
    for name in "${names[@]}"; do
        if suits "$name"; then echo "$name"; return; fi
    done
    die "Python 3.11 to 3.14 is needed; ${names[0]} is: $("${names[0]}" --version 2>&1)." \
        "Install one, or name it: PYTHON=/path/to/python3.12 bash scripts/setup.sh"
}

make_venv() {
    local python
    python=$(find_python)
    say "making .venv with $("$python" --version)"
    # --clear: what is there, if anything, does not start (its interpreter was removed, or it was half made).
    "$python" -m venv --clear .venv || die "$python cannot make environments. Debian and Ubuntu: apt-get install python3-venv"
}

# Everything that the installation depends on, the place included: an editable installation points to it.
inputs() {
    echo "$(pwd -P) [$extras] $("$venv_python" --version)"
    cat pyproject.toml constraints.txt requirements/learn2learn.txt scripts/setup.sh
}

pip() { "$venv_python" -m pip --disable-pip-version-check "$@"; }

install_all() {
    pip install "$verbosity" -c constraints.txt pip
    say "installing torch $(sed -n 's/^torch==//p' constraints.txt)"
    # Without its dependencies: they come with the rest, from the usual registry.
    pip install "$verbosity" --no-deps -c constraints.txt ${TORCH_INDEX_URL:+--index-url "$TORCH_INDEX_URL"} torch
    say "installing litmaml [$extras] and what it needs"
    # No warnings: an installed learn2learn lacks dependencies, as it should.
    pip install "$verbosity" --no-warn-conflicts -c constraints.txt --build-constraint constraints.txt \
        -e ".${extras:+[$extras]}"
}

has_learn2learn() { "$venv_python" -c 'import importlib.metadata as m; m.version("learn2learn")' 2>/dev/null; }

# Last and without dependencies: learn2learn's own would replace torch and downgrade numpy.
install_learn2learn() {
    local header
    header=$("$venv_python" -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h
    if ! command -v "${CC:-cc}" >/dev/null; then
        say "learn2learn is left out: no C compiler. Debian and Ubuntu: apt-get install gcc python3-dev; then run this again"
    elif [[ ! -e $header ]]; then
        say "learn2learn is left out: no $header. Debian and Ubuntu: apt-get install python3-dev; then run this again"
    else
        say "installing learn2learn, which is compiled here"
        pip install "$verbosity" --no-deps --build-constraint constraints.txt -r requirements/learn2learn.txt && return
        say "learn2learn is left out: its build failed (above)"
    fi
    if [[ -n ${LITMAML_REQUIRE_LEARN2LEARN:-}${CI:-} ]]; then die "learn2learn is required here"; fi
    say "litmaml works without it; tests that compare with it are skipped"
}

"$venv_python" -c '' 2>/dev/null || make_venv
suits "$venv_python" || die ".venv has $("$venv_python" --version), and 3.11 to 3.14 is needed. Remove .venv and run this again"
# An environment made by uv has no pip.
"$venv_python" -m pip --version >/dev/null 2>&1 || "$venv_python" -m ensurepip >/dev/null || die "cannot put pip into .venv"

changed=true
if inputs | cmp -s - "$stamp"; then changed=false; fi
if $changed; then install_all; fi
if [[ ,$extras, == *,learn2learn,* ]] && { $changed || ! has_learn2learn; }; then install_learn2learn; fi
if $changed; then
    inputs >"$stamp"
    say "installed in .venv in $SECONDS s"
fi
