#!/usr/bin/env bash
# Checks the contract: nothing released is broken, and the committed stubs are those of the .proto files. $1: folder of buf.
set -euo pipefail
cd "$(dirname "$0")/../proto"
bin=$(realpath "../$1")

newest=""
[ ! -d released ] || newest=$(find released -name '*.binpb' | sort -V | tail -n 1)
if [ -n "$newest" ]; then
  "$bin/buf" breaking . --against "$newest"
else
  echo "contract: no release yet, so nothing to compare with"
fi

fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT
status=0
./generate.sh "$fresh" || status=$?
if [ "$status" -eq 3 ]; then
  [ "${CI:-}" != true ] || exit 1
  exit 0
fi
[ "$status" -eq 0 ] || exit "$status"
if ! diff -r --exclude=__pycache__ "$fresh/runyardpb" python/runyardpb; then
  printf 'contract: the committed stubs differ from the .proto files\n  fix: make proto\n' >&2
  exit 1
fi
