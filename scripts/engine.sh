#!/usr/bin/env bash
# Ensures that a Docker engine is running; installs one if the user is root on Debian or Ubuntu, with messages.
# ENGINE=skip prevents it. If DOCKER_HOST is set, no local engine is installed.
set -euo pipefail
log=/var/log/edge-deploy-dockerd.log
seconds=60

say() { echo "engine: $*" >&2; }
fail() { say "$*"; exit 1; }
answers() { docker version --format '{{.Server.Version}}' >/dev/null 2>&1; }
install() { DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null; }

if answers; then
  exit 0
fi
[ "${ENGINE:-}" != skip ] || fail "no Docker engine is running, and ENGINE=skip prevents installing one: steps that need one will not run"
[ -z "${DOCKER_HOST:-}" ] || fail "no Docker engine is reachable at DOCKER_HOST=$DOCKER_HOST; start it, or unset DOCKER_HOST"
if [ "$(id -u)" != 0 ]; then
  if [ -S /var/run/docker.sock ] && [ ! -w /var/run/docker.sock ]; then
    fail "$(id -un) has no access to the Docker engine's socket: run \`sudo usermod -aG docker $(id -un)\` and log in again"
  fi
  fail "no Docker engine is running, and installing one needs root: install docker.io (Debian, Ubuntu: sudo apt-get install docker.io)"
fi
command -v apt-get >/dev/null || fail "no Docker engine is running, and there is no apt-get to install one with: install Docker yourself"

if ! command -v dockerd >/dev/null || ! command -v docker >/dev/null || ! command -v debootstrap >/dev/null; then
  say "no Docker engine is running: installing docker.io and debootstrap from the distribution (apt-get)"
  apt-get update -qq
  packages="docker.io debootstrap iptables ca-certificates"
  # Newer releases package the client separately.
  if apt-cache show docker-cli >/dev/null 2>&1; then
    packages="$packages docker-cli"
  fi
  # shellcheck disable=SC2086
  install $packages || fail "apt-get could not install $packages; its message is above"
fi

if ! answers; then
  if [ -d /run/systemd/system ]; then
    say "starting the docker service"
    systemctl start docker >"$log" 2>&1 || true
  else
    say "starting dockerd (log: $log; stop it with: kill \$(cat /var/run/docker.pid))"
    nohup setsid dockerd >"$log" 2>&1 </dev/null &
  fi
fi
for _ in $(seq "$seconds"); do
  if answers; then
    say "Docker $(docker version --format '{{.Server.Version}}') is running"
    exit 0
  fi
  sleep 1
done
fail "the Docker engine did not start within $seconds s: $(grep -v '^$' "$log" | tail -n 1)"
