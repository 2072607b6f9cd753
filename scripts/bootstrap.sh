#!/usr/bin/env bash
# Makes the virtual environment named by the first argument and installs runyard there from this checkout.
# Needs Python 3.11 or newer with venv, and a package index; says which is lacking and what installs it.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=$1

fail() {
  printf 'runyard: %s\n  fix: %s\n' "$1" "$2" >&2
  exit 1
}

install_line() { # of the packages of a Debian, Fedora or macOS system
  if command -v apt-get >/dev/null; then echo "sudo apt-get update && sudo apt-get install -y $1"
  elif command -v dnf >/dev/null; then echo "sudo dnf install -y $2"
  elif command -v brew >/dev/null; then echo "brew install $3"
  else echo "install $3 with your system's package manager"; fi
}

python=""
for candidate in "${PYTHON:-}" python3 python3.13 python3.12 python3.11; do
  [ -n "$candidate" ] || continue
  if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    python=$candidate
    break
  fi
done
[ -n "$python" ] || fail "Python 3.11 or newer was not found on PATH" \
  "$(install_line 'python3 python3-venv' python3.12 python@3.12), then run make again (or: make PYTHON=/path/to/python3.12 …)"
"$python" -c 'import ensurepip, venv' 2>/dev/null || fail "$("$python" --version) has no venv module" \
  "$(install_line python3-venv python3 python@3.12)"

if ! "$venv/bin/python" -c '' 2>/dev/null; then
  echo "Making $venv with $("$python" --version) ..."
  "$python" -m venv --clear "$venv"
fi
echo "Installing runyard ..."
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if ! "$venv/bin/python" -m pip install --quiet --disable-pip-version-check uv >"$log" 2>&1 ||
   ! "$venv/bin/uv" pip install --quiet --compile-bytecode --python "$venv/bin/python" --editable . >"$log" 2>&1; then
  tail -n 15 "$log" >&2
  fail "the package index could not be reached or lacks a package" \
    "check the network, or name your index: PIP_INDEX_URL=… UV_INDEX_URL=… make"
fi
"$venv/bin/python" -m compileall -q proto/python clients/python daemon agent
