#!/usr/bin/env bash
# Lint, types and tests. Arguments go to pytest: bash scripts/test.sh -k sinusoid
#
#   LITMAML_DATA=DIR    the folder with omniglot/images_background.zip and images_evaluation.zip (default: ../shared,
#                       where it has them); without it the tests on the real Omniglot are skipped
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

bash scripts/setup.sh
if [[ -d ../shared/omniglot ]]; then export LITMAML_DATA=${LITMAML_DATA:-$PWD/../shared}; fi
# One thread for each process: the processes share the cores.
export OMP_NUM_THREADS=1

step() { echo "== $*"; .venv/bin/python -m "$@"; }
step ruff check
step ruff format --check
step mypy
# One by one: mypy takes no two modules of one name.
for file in tests/conftest.py tests/*/conftest.py; do step mypy "$file"; done
step pytest -n auto --maxprocesses=8 --durations=10 "$@"
