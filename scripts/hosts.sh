#!/usr/bin/env bash
# Installs what the tests' local ssh hosts need (root, Debian or Ubuntu); otherwise those tests are skipped.
set -euo pipefail

say() { echo "hosts: $*" >&2; }

missing=
command -v sshd >/dev/null || [ -x /usr/sbin/sshd ] || missing="$missing openssh-server"
command -v ssh >/dev/null || missing="$missing openssh-client"
command -v tc >/dev/null || [ -x /usr/sbin/tc ] || missing="$missing iproute2"
[ -n "$missing" ] || exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  say "missing:$missing; installing them needs root and apt-get: tests of devices over ssh will be skipped"
  exit 0
fi
say "installing$missing from the distribution (apt-get)"
# This runlevel prevents services from starting: the tests start their own servers.
export RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive
apt-get update -qq
# shellcheck disable=SC2086
apt-get install -y -qq --no-install-recommends $missing >/dev/null ||
  say "apt-get could not install$missing: tests of devices over ssh will be skipped"
