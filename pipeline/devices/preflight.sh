# What the device is and has, in sections that pipeline/devices/preflight.py reads. Changes nothing; needs no root.
# $1: the base image, or nothing.
section() { printf '\n@@ %s\n' "$1"; }
quietly() { "$@" 2>/dev/null </dev/null || true; }
as_root() { quietly "$@" || true; }
if [ "$(id -u)" != 0 ] && command -v sudo >/dev/null 2>&1; then
  as_root() { quietly sudo -n "$@"; }
fi
section machine; uname -m
section user; id -un
section work; printf '%s\n' "$WORK"
section release; quietly head -n 1 /etc/nv_tegra_release
section l4t-core; quietly dpkg-query -W -f '${db:Status-Abbrev} ${Version}\n' nvidia-l4t-core
section model; if [ -r /proc/device-tree/model ]; then tr -d '\000' </proc/device-tree/model; echo; fi
section power-mode; if command -v nvpmodel >/dev/null 2>&1; then
  mode=$(quietly nvpmodel -q); [ -n "$mode" ] || mode=$(as_root nvpmodel -q); printf '%s\n' "$mode"
fi
section power-modes; quietly grep -E '^ *< *POWER_MODEL' /etc/nvpmodel.conf
section clocks
for each in /sys/devices/system/cpu/cpufreq/policy*; do
  [ -r "$each/scaling_min_freq" ] || continue
  echo "cpu ${each##*/} $(cat "$each/scaling_min_freq" "$each/scaling_max_freq" | tr '\n' ' ')"
done
for each in /sys/class/devfreq/*; do
  case ${each##*/} in *gpu*|*gv11b*|*ga10b*|*gb10b*) [ -r "$each/min_freq" ] || continue
    echo "gpu ${each##*/} $(cat "$each/min_freq" "$each/max_freq" | tr '\n' ' ')";; esac
done
section nvidia-smi; if command -v nvidia-smi >/dev/null 2>&1; then
  quietly nvidia-smi --query-gpu=name,driver_version,compute_cap,memory.total --format=csv,noheader,nounits
fi
section gpu-hook; command -v nvidia-container-runtime-hook 2>/dev/null || true
section docker-command; quietly command -v "${DOCKER%% *}"
section docker-version; $DOCKER version --format '{{.Server.Os}}/{{.Server.Arch}} {{.Server.Version}}' 2>&1 </dev/null || true
section docker-root; quietly $DOCKER info --format '{{.DockerRootDir}}'
section docker-runtimes; quietly $DOCKER info --format '{{json .Runtimes}}'
section base-image; [ -z "${1:-}" ] || quietly $DOCKER image inspect --format '{{.Id}}' "$1"
section programs; for each in tar sha256sum awk find sort comm; do
  command -v "$each" >/dev/null 2>&1 || echo "$each"
done
# Of the nearest folder that is there already.
free() {
  folder=$1; while [ ! -d "$folder" ]; do folder=$(dirname "$folder"); done
  df -Pk "$folder" | awk 'END { print $4 }'
}
section work-free; free "$WORK"
section docker-free; root=$(quietly $DOCKER info --format '{{.DockerRootDir}}'); [ -z "$root" ] || quietly free "$root"
section memory; grep -E '^(MemTotal|MemAvailable):' /proc/meminfo
section temperature; for each in /sys/class/thermal/thermal_zone*; do
  [ -r "$each/temp" ] && value=$(cat "$each/temp" 2>/dev/null) && echo "$(cat "$each/type") $value" || true
done
section cpu; grep -m 1 -E '^(flags|Features)' /proc/cpuinfo || true
section end
