#!/usr/bin/env bash
# Ensures that Chromium runs, which the tests of the status page need: scripts/browser.sh
#
# If it is missing and the user is root on Debian, it is installed with apt-get, with a message. CHROMIUM names another
# binary; BROWSER=skip skips the installation and those tests.
set -euo pipefail

say() { echo "browser: $*" >&2; }
fail() { say "$*"; exit 1; }
found() {
  local name
  # tests/support/chromium.py looks for the same ones.
  for name in ${CHROMIUM:-chromium chromium-browser google-chrome}; do
    # Ubuntu's package of that name is a stub that requires snap: it is on PATH but does not run.
    if version=$("$name" --version 2>/dev/null); then
      return 0
    fi
  done
  return 1
}

if [ "${BROWSER:-}" = skip ]; then
  say "BROWSER=skip: the status page is not tested in a browser"
  exit 0
fi
if found; then
  exit 0
fi
cure="install Chromium or Chrome (Debian: sudo apt-get install chromium), name one with CHROMIUM=/path, or BROWSER=skip to test without"
[ -z "${CHROMIUM:-}" ] || fail "CHROMIUM=$CHROMIUM does not run: $cure"
[ "$(id -u)" = 0 ] || fail "there is no browser, and installing one needs root: $cure"
command -v apt-get >/dev/null || fail "there is no browser, and no apt-get to install one with: $cure"

say "there is no browser: installing chromium (about 400 MB) from the distribution with apt-get"
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium >/dev/null ||
  fail "apt-get could not install chromium; its message is above"
found || fail "this distribution's chromium does not run here (Ubuntu's is a stub for snap): $cure"
say "$version"
