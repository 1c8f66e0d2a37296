#!/usr/bin/env bash
# Runs the tests, those that need a Docker engine, too, where one can be had: scripts/test.sh VENV [pytest's options]
# TEST_PROCESSES of them (2) share the files; each computes with one thread, or they would wait for each other.
set -euo pipefail
cd "$(dirname "$0")/.."
python="$1/bin/python"
shift
export OMP_NUM_THREADS=1
options=(-n "${TEST_PROCESSES:-2}" "$@")

if scripts/engine.sh; then
  scripts/hosts.sh
  exec "$python" -m pytest "${options[@]}"
fi
# In CI those tests fail instead of being skipped.
"$python" -m pytest "${options[@]}"
echo "test: all that needs no Docker engine passed; the rest was skipped, as none answers (the reason is above)" >&2
