#!/usr/bin/env bash
# Trains the iris example on this machine through daemon and agent, and shows what came of it. $1: folder of runyard's command.
set -euo pipefail
cd "$(dirname "$0")/../examples/iris"
runyard=$1/runyard

bold="" plain=""
if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then bold=$'\033[1m' plain=$'\033[0m'; fi
say() { printf '\n%s$ %s%s\n' "$bold" "$*" "$plain"; }

say "runyard run --env requirements.txt train.py --max-depth 3"
"$runyard" run --env requirements.txt train.py --max-depth 3
run=$("$runyard" runs list --json | "$1/python" -c 'import json, sys; print(json.load(sys.stdin)[0]["run_id"])')
say "runyard runs metrics $run"
"$runyard" runs metrics "$run"
say "runyard runs files $run"
"$runyard" runs files "$run"
cat <<END

That was a real run. The daemon waits in the background for the next one and ends by itself when it is not used;
"$runyard daemon stop" ends it now. Run the same command again: the environment is there already.
Next: README.md, "A first session".
END
