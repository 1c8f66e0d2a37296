#!/usr/bin/env bash
# Runs the tests, including those that need a Docker engine if there is one: scripts/test.sh VENV [pytest options]
# TEST_PROCESSES (2) run in parallel, each with one compute thread, since more would slow each other down.
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
# In CI, tests that need an engine fail instead of being skipped.
"$python" -m pytest "${options[@]}"
echo "test: all tests without a Docker engine passed; the others were skipped, as none is running (see above)" >&2
