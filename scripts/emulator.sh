#!/usr/bin/env bash
# Ensures that this machine runs programs of an architecture: scripts/emulator.sh amd64|arm64
#
# For an architecture other than its own, QEMU's user mode emulation is installed (qemu-user-static and binfmt-support,
# with apt-get) and registered with the kernel (which needs binfmt_misc mounted), with messages. Root only;
# ENGINE=skip prevents it.
set -euo pipefail

say() { echo "emulator: $*" >&2; }
fail() { say "$*"; exit 1; }

case "${1:-}" in
  amd64) machines="x86_64 amd64" qemu=qemu-x86_64 ;;
  arm64) machines="aarch64 arm64" qemu=qemu-aarch64 ;;
  *) fail "usage: scripts/emulator.sh amd64|arm64" ;;
esac
misc=/proc/sys/fs/binfmt_misc
# Docker Desktop registers its own emulator under the same name; with flag F, containers need no copy of it.
registered() { grep -qs '^enabled' "$misc/$qemu" && grep -qs '^flags:.*F' "$misc/$qemu"; }

for machine in $machines; do
  [ "$(uname -m)" != "$machine" ] || exit 0
done
if registered; then
  exit 0
fi
cure="run \`sudo apt-get install qemu-user-static binfmt-support\` once"
[ "${ENGINE:-}" != skip ] || fail "this $(uname -m) does not run $1 programs, and ENGINE=skip prevents installing an emulator: $cure"
[ "$(id -u)" = 0 ] || fail "this $(uname -m) does not run $1 programs, and installing an emulator needs root: $cure"

if ! command -v "$qemu-static" >/dev/null || ! command -v update-binfmts >/dev/null; then
  command -v apt-get >/dev/null || fail "this $(uname -m) does not run $1 programs, and there is no apt-get to install QEMU with: install it yourself"
  say "this $(uname -m) does not run $1 programs: installing qemu-user-static and binfmt-support with apt-get"
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends qemu-user-static binfmt-support >/dev/null ||
    fail "apt-get could not install qemu-user-static and binfmt-support; its message is above"
fi
if [ ! -e "$misc/register" ]; then
  say "mounting binfmt_misc on $misc"
  mount -t binfmt_misc binfmt_misc "$misc" || fail "this kernel has no binfmt_misc, so it cannot run programs of another architecture"
fi
if ! registered; then
  say "registering $qemu with the kernel (undo: update-binfmts --disable $qemu)"
  update-binfmts --import "$qemu" >/dev/null 2>&1 || true
  registered || update-binfmts --enable "$qemu" || fail "$qemu could not be registered; its message is above"
fi
registered || fail "$qemu is not registered correctly with the kernel: $(tr '\n' ' ' <"$misc/$qemu" 2>/dev/null)"
