#!/usr/bin/env bash
# Runs the tests, those that need a Docker engine, too, where one can be had: scripts/test.sh VENV [pytest's options]
set -euo pipefail
cd "$(dirname "$0")/.."
python="$1/bin/python"
shift

if scripts/engine.sh; then
  scripts/hosts.sh
  exec "$python" -m pytest "$@"
fi
# In CI those tests fail instead of being skipped.
"$python" -m pytest "$@"
echo "test: all that needs no Docker engine passed; the rest was skipped, as none answers (the reason is above)" >&2
