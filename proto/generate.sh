#!/usr/bin/env bash
# Writes the Python stubs of the contract into the folder given (default proto/python).
# Old generators on purpose: code from grpcio-tools 1.62.3 runs on protobuf 4.25 to 7, so the SDK fits beside what a training
# environment has. They need Python 3.11 or 3.12 and live in a virtual environment of their own.
set -euo pipefail
cd "$(dirname "$0")"
out=$(realpath -m "${1:-python}")
venv=$(realpath -m ../.proto-venv)

python=""
for candidate in python3.11 python3.12 python3; do
  if "$candidate" -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' 2>/dev/null; then
    python=$candidate
    break
  fi
done
if [ -z "$python" ]; then
  echo "proto: skipped: the stub generators need Python 3.11 or 3.12, and none is on PATH" >&2
  exit 3
fi
if [ ! -x "$venv/bin/protoc-gen-mypy_grpc" ]; then
  "$python" -m venv "$venv"
  "$venv/bin/python" -m pip install --quiet "grpcio-tools==1.62.3" "mypy-protobuf==3.6.0" "setuptools<80"
fi

mapfile -t protos < <(find runyardpb -name '*.proto' | LC_ALL=C sort)
mkdir -p "$out"
rm -rf "$out/runyardpb"
PATH="$venv/bin:$PATH" "$venv/bin/python" -W ignore -m grpc_tools.protoc -I . \
  --python_out="$out" --grpc_python_out="$out" --mypy_out="quiet:$out" --mypy_grpc_out="quiet:$out" "${protos[@]}"
# A noun without a service needs no service stub.
while IFS= read -r stub; do
  noun="${stub%_pb2_grpc.py}"
  grep -q '^class' "$stub" || rm -f "$stub" "${noun}_pb2_grpc.pyi"
done < <(find "$out/runyardpb" -name '*_pb2_grpc.py')
while IFS= read -r folder; do
  printf '"""Stubs of the contract, written by `make proto`: do not edit."""\n' > "$folder/__init__.py"
done < <(find "$out/runyardpb" -type d)
