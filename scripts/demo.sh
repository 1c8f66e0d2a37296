#!/usr/bin/env bash
# The main job on embedded data: train, compress, prove, package, start, ask. scripts/demo.sh VENV
set -euo pipefail
cd "$(dirname "$0")/.."
deploy="$1/bin/deploy"

if scripts/engine.sh; then
  base=$(scripts/base_image.sh)
  exec "$deploy" demo --folder .deploy/demo --base-image "$base"
fi
# Without an engine the demo goes as far as it can, and ends with one line that says what is missing.
exec "$deploy" demo --folder .deploy/demo
