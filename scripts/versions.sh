#!/usr/bin/env bash
# The quick tests on other interpreters, and on the oldest versions that pyproject.toml allows; one environment after the
# other, so that CI can call it for each: bash scripts/versions.sh 3.13
#
#   bash scripts/versions.sh [3.11|3.12|3.13|3.14|oldest]... [-- PYTEST OPTIONS]
#
# Without names all five. A number takes the versions of constraints.txt, "oldest" the lowest that pyproject.toml allows,
# on Python 3.11. An interpreter is pythonX.Y on the path, or what uv has; one that is missing is said and skipped.
#
#   VERSIONS_DIR=DIR              where the environments are kept (default: .versions, which git ignores)
#   TORCH_INDEX_URL=URL           where torch comes from: https://download.pytorch.org/whl/cpu for a machine without a GPU
#   LITMAML_REQUIRE_VERSIONS=1    fail where an interpreter is missing (always so where CI is set)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

names=() options=()
while (($#)); do
    if [[ $1 == -- ]]; then shift; options=("$@"); break; fi
    names+=("$1"); shift
done
if ((${#names[@]} == 0)); then names=(3.11 3.12 3.13 3.14 oldest); fi
# What stands between interpreters and versions: every room is imported, the mathematics, a run, and what is installed.
if ((${#options[@]} == 0)); then
    options=(tests/core/test_outer_gradients.py tests/core/test_methods.py tests/learner tests/cli tests/test_packaging.py
        -k 'not every_dependency and not pinned_torch')
fi
home=${VERSIONS_DIR:-.versions}
export OMP_NUM_THREADS=1

say() { echo "versions: $*"; }

interpreter() {
    command -v "python$1" || { command -v uv >/dev/null && uv python find "$1" 2>/dev/null; }
}

# name==lowest for each line name>=lowest of the package and of what its tests need.
lowest() {
    "$1" - <<'PYTHON'
import re
import tomllib
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
for line in [*project["dependencies"], *project["optional-dependencies"]["dev"]]:
    if found := re.match(r"([\w.-]+)(?:\[[\w,]+\])?(?:>=|==)([\w.]+)", line):
        print(f"{found[1]}=={found[2]}")
PYTHON
}

missing=() failed=() passed=()
for name in "${names[@]}"; do
    version=${name/oldest/3.11}
    case $version in
        3.11 | 3.12 | 3.13 | 3.14) ;;
        *) say "there is no $name; one of 3.11, 3.12, 3.13, 3.14, oldest" >&2; exit 2 ;;
    esac
    if ! python=$(interpreter "$version"); then missing+=("$name"); continue; fi
    say "$name: $("$python" --version)"
    folder=$home/$name
    mkdir -p "$home"
    [[ -x $folder/bin/python ]] || "$python" -m venv "$folder"
    venv=$folder/bin/python
    bounds=constraints.txt more=()
    if [[ $name == oldest ]]; then
        lowest "$venv" >"$home/oldest.txt"
        # Old packages warn of what newer ones that they rest on have renamed.
        bounds=$home/oldest.txt more=(-W default --disable-warnings)
    fi
    "$venv" -m pip --disable-pip-version-check install --quiet -c "$bounds" \
        ${TORCH_INDEX_URL:+--extra-index-url "$TORCH_INDEX_URL"} -e '.[tensorboard]' \
        pytest pytest-timeout hypothesis packaging scipy types-PyYAML
    if "$venv" -m pytest -q "${more[@]}" "${options[@]}"; then passed+=("$name"); else failed+=("$name"); fi
done
say "passed: ${passed[*]:-none}; failed: ${failed[*]:-none}; no interpreter: ${missing[*]:-none}"
if ((${#failed[@]})); then exit 1; fi
if ((${#missing[@]})) && [[ -n ${LITMAML_REQUIRE_VERSIONS:-}${CI:-} ]]; then exit 1; fi
