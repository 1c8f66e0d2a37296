#!/usr/bin/env bash
# Runs the whole pipeline on embedded data: train, compress, prove, package, start, predict. scripts/demo.sh VENV
set -euo pipefail
cd "$(dirname "$0")/.."
deploy="$1/bin/deploy"

if scripts/engine.sh; then
  base=$(scripts/base_image.sh)
  exec "$deploy" demo --folder .deploy/demo --base-image "$base"
fi
# Without an engine the demo runs as far as possible, and ends with a line that says what is missing.
exec "$deploy" demo --folder .deploy/demo
