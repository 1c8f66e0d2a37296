#!/usr/bin/env bash
# Finds or makes a base image with Python 3 and venv in it; prints its tag, and nothing else, on stdout.
#
# First what is there already, then the one of docker/images.toml from its registry; where no registry answers,
# a small Debian made here with debootstrap (root only; about a minute). MIRROR names another Debian mirror.
set -euo pipefail
cd "$(dirname "$0")/.."
suite=bookworm
own="edge-deploy-base:$suite"

say() { echo "base image: $*" >&2; }
fail() { say "$*"; exit 1; }

case "$(uname -m)" in
  x86_64 | amd64) arch=amd64 ;;
  aarch64 | arm64) arch=arm64 ;;
  *) fail "this machine is a $(uname -m); images are built on x86_64 and aarch64" ;;
esac
published=$(awk -F'"' -v section="[python-$arch]" '$0 == section {found = 1} found && /^tag/ {print $2; exit}' docker/images.toml)

for tag in "$published" "$own"; do
  if docker image inspect "$tag" >/dev/null 2>&1; then
    say "$tag is here"
    echo "$tag"
    exit 0
  fi
done

say "pulling $published"
if docker pull --quiet "$published" >/dev/null 2>&1; then
  echo "$published"
  exit 0
fi

say "its registry does not answer: making $own (Debian $suite with python3 and venv) with debootstrap"
[ "$(id -u)" = 0 ] || fail "debootstrap needs root: run \`sudo scripts/base_image.sh\` once, or name an image you have: deploy build --base-image TAG"
if ! command -v debootstrap >/dev/null; then
  command -v apt-get >/dev/null || fail "there is no debootstrap, and no apt-get to install it; name an image you have: deploy build --base-image TAG"
  say "installing debootstrap with apt-get"
  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq debootstrap >/dev/null
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
if ! debootstrap --variant=minbase --include=python3,python3-venv "$suite" "$work/root" ${MIRROR:+"$MIRROR"} >"$work/log" 2>&1; then
  tail -n 5 "$work/log" >&2
  [ ! -f "$work/root/debootstrap/debootstrap.log" ] || tail -n 5 "$work/root/debootstrap/debootstrap.log" >&2
  fail "debootstrap failed; its last lines are above (another mirror: MIRROR=http://... scripts/base_image.sh)"
fi

# What an image never needs; copyright files stay.
cd "$work/root"
rm -rf var/cache/apt/* var/lib/apt/lists/* var/log/* var/cache/debconf/*-old usr/share/man/* usr/share/info/* usr/share/locale/* debootstrap tmp/*
find usr/share/doc -type f ! -name copyright -delete
find usr/share/doc -type l -delete
find . -xdev -type d -name __pycache__ -prune -exec rm -rf {} +
tar --numeric-owner --sort=name --one-file-system -C "$work/root" -c . |
  docker import --change 'ENV LANG=C.UTF-8' --change 'CMD ["python3"]' --message "debootstrap $suite" - "$own" >/dev/null
say "$own is made: $(docker image inspect --format '{{.Size}}' "$own" | awk '{printf "%.0f MB", $1 / 1e6}')"
echo "$own"
