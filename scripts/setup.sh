#!/usr/bin/env bash
# Creates a virtual environment with all dependencies: scripts/setup.sh VENV [dev]
# or only with those of the documentation, without PyTorch: scripts/setup.sh VENV docs
set -euo pipefail
cd "$(dirname "$0")/.."
venv=$1
extra=${2:-}

say() { echo "setup: $*" >&2; }
fail() { say "$*"; exit 1; }

stamp="$venv/.installed-${extra:-run}"
wanted=$(cat pyproject.toml constraints.txt | sha256sum)
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then
  exit 0
fi

python=""
for name in ${PYTHON:-python3.13 python3.12 python3.11 python3}; do
  if command -v "$name" >/dev/null 2>&1 && "$name" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))'; then
    python=$name
    break
  fi
done
[ -n "$python" ] || fail "no Python 3.11 to 3.13 found; install one, or name it: make PYTHON=/path/to/python3.12"

if ! "$python" -c 'import ensurepip, venv' >/dev/null 2>&1; then
  [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || fail "$python has no venv; install your system's package for it (Debian, Ubuntu: python3-venv)"
  say "$python has no venv: installing python3-venv with apt-get"
  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq python3-venv >/dev/null
fi

if [ ! -x "$venv/bin/python" ]; then
  say "creating the virtual environment $venv with $("$python" --version)"
  "$python" -m venv "$venv"
fi
pip() { "$venv/bin/python" -m pip --disable-pip-version-check "$@"; }

if [ "$extra" = docs ]; then
  say "installing the documentation tools (versions: constraints.txt)"
  pip install --quiet --constraint constraints.txt pip
  pip install --quiet --constraint constraints.txt --group docs
  echo "$wanted" > "$stamp"
  exit 0
fi

# PyTorch first and with its exact version: a range may select a CUDA build of several gigabytes.
torch=$(grep '^torch==' constraints.txt)
say "installing $torch${TORCH_INDEX:+ from $TORCH_INDEX}"
pip install --quiet "$torch" ${TORCH_INDEX:+--index-url "$TORCH_INDEX"}
say "installing edge-deploy${extra:+ and the development tools} (versions: constraints.txt)"
pip install --quiet --constraint constraints.txt pip
if [ -n "$extra" ]; then
  pip install --quiet --constraint constraints.txt --editable . --group "$extra"
else
  pip install --quiet --constraint constraints.txt --editable .
fi
echo "$wanted" > "$stamp"
