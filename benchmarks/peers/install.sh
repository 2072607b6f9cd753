#!/usr/bin/env bash
# Installs the peers that the benchmarks compare with: each Python one in an environment of its own under the folder given,
# the others from Debian. What can't be had is named and left out: the table then shows no figure of it.
set -uo pipefail
folder=$1 uv=$2

python_peer() { # name, requirements...
  local name=$1 && shift
  [ -f "$folder/$name/.installed" ] && return
  echo "Installing $name ..." >&2
  if "$uv" venv --quiet --allow-existing --python python3 "$folder/$name" &&
     "$uv" pip install --quiet --compile-bytecode --python "$folder/$name/bin/python" "$@"; then
    touch "$folder/$name/.installed"
  else
    echo "bench: $name could not be installed and is left out" >&2
  fi
}

mkdir -p "$folder"
python_peer hyperqueue "hyperqueue==0.27.0"
python_peer dask "distributed==2026.8.0"
python_peer ray "ray[default]==2.60.0"
python_peer mlflow "mlflow==3.17.2"

lacking=()
for pair in slurmctld:slurmctld slurmd:slurmd srun:slurm-client rsync:rsync restic:restic borg:borgbackup; do
  PATH=$PATH:/usr/sbin command -v "${pair%%:*}" >/dev/null || lacking+=("${pair##*:}")
done
if [ "${#lacking[@]}" -gt 0 ]; then
  if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
    echo "Installing ${lacking[*]} ..." >&2
    apt-get update --quiet --quiet >&2
    DEBIAN_FRONTEND=noninteractive apt-get install --quiet --quiet -y --no-install-recommends "${lacking[@]}" >/dev/null ||
      echo "bench: ${lacking[*]} could not be installed and are left out" >&2
  else
    echo "bench: ${lacking[*]} are not here and are left out; to have them: sudo apt-get install ${lacking[*]}" >&2
  fi
fi
exit 0
