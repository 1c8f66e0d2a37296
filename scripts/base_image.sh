#!/usr/bin/env bash
# Finds or builds a base image with Python 3 and venv: scripts/base_image.sh [amd64|arm64]
# Prints only its tag on stdout. The default architecture is this machine's.
#
# It tries a local image first, then pulls the one in docker/images.toml. If the registry is not reachable, it builds
# a small Debian with debootstrap (root only; about a minute, three to six minutes under emulation).
# MIRROR names another Debian mirror. ENGINE=skip prevents the installation of an emulator for another architecture.
set -euo pipefail
cd "$(dirname "$0")/.."
suite=bookworm

say() { echo "base image: $*" >&2; }
fail() { say "$*"; exit 1; }

case "${1:-$(uname -m)}" in
  x86_64 | amd64) arch=amd64 own="edge-deploy-base:$suite" ;;
  aarch64 | arm64) arch=arm64 own="edge-deploy-base:$suite-arm64" ;;
  *) fail "images are built for amd64 and arm64, not for ${1:-a $(uname -m)}" ;;
esac
published=$(awk -F'"' -v section="[python-$arch]" '$0 == section {found = 1} found && /^tag/ {print $2; exit}' docker/images.toml)

# The steps below, and builds on the image, run programs of that architecture.
scripts/emulator.sh "$arch"

for tag in "$published" "$own"; do
  if [ "$(docker image inspect --format '{{.Architecture}}' "$tag" 2>/dev/null)" = "$arch" ]; then
    say "$tag is available locally"
    echo "$tag"
    exit 0
  fi
done

say "pulling $published"
if docker pull --quiet --platform "linux/$arch" "$published" >/dev/null 2>&1; then
  echo "$published"
  exit 0
fi

say "the registry is not reachable: building $own (Debian $suite for $arch with python3 and venv) with debootstrap"
[ "$(id -u)" = 0 ] || fail "debootstrap needs root: run \`sudo scripts/base_image.sh $arch\` once, or name an image you have: deploy build --base-image TAG"
if ! command -v debootstrap >/dev/null; then
  command -v apt-get >/dev/null || fail "there is no debootstrap, and no apt-get to install it; name an image you have: deploy build --base-image TAG"
  say "installing debootstrap with apt-get"
  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq debootstrap >/dev/null
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
if ! debootstrap --arch="$arch" --variant=minbase --include=python3,python3-venv "$suite" "$work/root" ${MIRROR:+"$MIRROR"} >"$work/log" 2>&1; then
  tail -n 5 "$work/log" >&2
  [ ! -f "$work/root/debootstrap/debootstrap.log" ] || tail -n 5 "$work/root/debootstrap/debootstrap.log" >&2
  fail "debootstrap failed; its last lines are above (another mirror: MIRROR=http://... scripts/base_image.sh)"
fi

# Remove what an image never needs; copyright files stay.
cd "$work/root"
rm -rf var/cache/apt/* var/lib/apt/lists/* var/log/* var/cache/debconf/*-old usr/share/man/* usr/share/info/* usr/share/locale/* debootstrap tmp/*
find usr/share/doc -type f ! -name copyright -delete
find usr/share/doc -type l -delete
find . -xdev -type d -name __pycache__ -prune -exec rm -rf {} +
cd "$work"
tar --numeric-owner --sort=name --one-file-system -C root -cf layer.tar .
rm -rf root
# With `docker load`, since `docker import` up to engine 20.10 sets the engine's own architecture.
layer=$(sha256sum layer.tar | cut -d' ' -f1)
cat >config.json <<JSON
{"os": "linux", "architecture": "$arch", "created": "$(date -u +%Y-%m-%dT%H:%M:%SZ)",
 "config": {"Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"], "Cmd": ["python3"]},
 "rootfs": {"type": "layers", "diff_ids": ["sha256:$layer"]}, "history": [{"comment": "debootstrap $suite"}]}
JSON
echo "[{\"Config\": \"config.json\", \"RepoTags\": [\"$own\"], \"Layers\": [\"layer.tar\"]}]" >manifest.json
tar -c manifest.json config.json layer.tar | docker load --quiet >/dev/null
say "built $own: $(docker image inspect --format '{{.Size}}' "$own" | awk '{printf "%.0f MB", $1 / 1e6}')"
echo "$own"
