#!/usr/bin/env bash
# Row 11: losses with 2 and 4 processes against one with the same global batch, 20 steps, dropout on; also resumed with another number.
# Prints JSON lines as moelora_bench does. Usage: bash tests/benchmarks/ranks.sh PROGRAM
set -euo pipefail
lines=$(mktemp)
trap 'rm -f "$lines"' EXIT
status=0
MOELORA_RANKS_RESULTS=$lines "$(dirname "$0")/../e2e/ranks.sh" "$1" "2 4" 20 KILL 32 >&2 || status=$?
if [ "$status" = 77 ]; then
  echo '{"row": 11, "measure": "losses with several processes", "skipped": "the build has no process groups"}'
  exit 0
fi
cat "$lines"
# What fails without a line of its own: a lost rank that is not named in time, a failed resume, other answers.
[ "$status" = 0 ] || echo '{"row": 11, "measure": "tests/e2e/ranks.sh", "skipped": "it failed, see standard error"}'
exit "$status"
