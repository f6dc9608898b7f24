#!/usr/bin/env bash
# Kills `moelora experiment` (SIGKILL, all its processes) at several moments and restarts it each time: finished cells
# are not repeated, and the table, the answers and the chosen rates are those of an undisturbed run. Exit codes: 0 all
# equal, 1 a difference.
#
#   tests/e2e/experiment_kill.sh build/bin/moelora REPOSITORY [kills=5]
#
# MOELORA_E2E_BASE=FOLDER takes another base than examples/tiny_base/model, MOELORA_E2E_TARGETS its linears as JSON.
set -euo pipefail

export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}
moelora=$(realpath "$1")
repository=$(realpath "$2")
kills=${3:-5}
base=$(realpath "${MOELORA_E2E_BASE:-$repository/examples/tiny_base/model}")
targets=${MOELORA_E2E_TARGETS:-'["query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"]'}
work=$(mktemp -d "${TMPDIR:-/tmp}/moelora-experiment-XXXXXX")
session=
trap '[ -z "$session" ] || kill -9 -- "-$session" 2>/dev/null || true; rm -rf "$work"' EXIT
cd "$work"
awk 'NR % 12 == 0' "$repository/examples/sample_data/train.json" >train.json
awk 'NR % 8 == 0' "$repository/examples/sample_data/dev.json" >dev.json

cat >config.json <<JSON
{"model": {"path": "$base"},
 "adapter": {"rank": 8, "num_experts": 4, "alpha": 16, "dropout": 0.1, "targets": $targets},
 "data": {"train": "train.json", "validation_size": 24, "max_source_length": 96, "max_target_length": 24},
 "evaluation": "dev.json",
 "training": {"steps": 12, "batch_size": 8, "micro_batch_tokens": 1024, "learning_rate": 1e-2, "checkpoint_every": 3,
              "log_every": 3, "threads": 1},
 "methods": ["base", "lora-full", "lora-single", "task-arithmetic", "molora", "moelora-d"],
 "tuning": {"learning_rates": [3e-3, 1e-2], "steps": 6},
 "seeds_of": {"moelora-d": [1, 2]},
 "sweeps": {"num_experts": [2]},
 "composition": {"lambdas": [0.3, 1.0]},
 "costs": false,
 "jobs": 2}
JSON

now_ms() { date +%s%3N; }
results_of() { (cd "$1/cells" && find . -name result.json | sort); }
stamps_of() { (cd "$1/cells" && find . -name result.json -printf '%p %T@ %i\n' | sort); }
# All that must not depend on where the run was cut: everything but times and memory.
numbers_of() {
  python3 - "$1" <<'PYTHON'
import json, pathlib, sys
root = pathlib.Path(sys.argv[1])
for path in sorted((root / "cells").rglob("result.json")):
    result = json.loads(path.read_text())
    for key in ("seconds", "training_seconds", "peak_memory_bytes"):
        result.pop(key, None)
    print(path.relative_to(root), json.dumps(result, sort_keys=True))
for path in sorted((root / "cells").rglob("predictions.json")):
    print(path.relative_to(root), path.read_text())
PYTHON
}
# The scores alone: the tables of costs hold times.
table_of() { sed -n '1,/^Wrote/p' "$1" | grep -v '^Wrote'; }

begin=$(now_ms)
"$moelora" experiment --config config.json --output undisturbed >undisturbed.out 2>undisturbed.err ||
  { cat undisturbed.err >&2; exit 1; }
whole_ms=$(($(now_ms) - begin))
cells=$(results_of undisturbed | wc -l)
echo "experiment_kill: undisturbed run of $cells cells took $whole_ms ms"

for kill in $(seq 1 "$kills"); do
  before=$([ -d killed/cells ] && stamps_of killed || true)
  setsid "$moelora" experiment --config config.json --output "$work/killed" --resume >>killed.err 2>&1 &
  session=$!
  # Moments spread over the run, each in another stage of it.
  sleep "$(awk -v ms="$whole_ms" -v part="$((kill * 2 + 1))" -v all="$((kills * 4))" 'BEGIN {print ms * part / all / 1000}')"
  kill -9 "$session" 2>/dev/null || true
  wait "$session" 2>/dev/null || true
  sleep 0.3 # the cells die with their parent
  if pgrep -f "$work/killed --cell" >/dev/null; then
    echo "experiment_kill: a cell outlived its parent" >&2
    exit 1
  fi
  if [ -d killed/cells ]; then
    now=$(stamps_of killed)
    if [ -n "$before" ] && [ -n "$(comm -23 <(printf '%s\n' "$before" | sort) <(printf '%s\n' "$now" | sort))" ]; then
      echo "experiment_kill: finished cells were repeated after kill $kill" >&2
      exit 1
    fi
    echo "experiment_kill: killed with $(results_of killed | wc -l) of $cells cells finished"
  fi
done
session=
before=$(stamps_of killed)
"$moelora" experiment --config config.json --output killed --resume >killed.out 2>>killed.err || { cat killed.err >&2; exit 1; }
if [ -n "$(comm -23 <(printf '%s\n' "$before" | sort) <(stamps_of killed | sort))" ]; then
  echo "experiment_kill: finished cells were repeated" >&2
  exit 1
fi
if ! cmp <(numbers_of undisturbed) <(numbers_of killed); then
  echo "experiment_kill: results or answers differ" >&2
  diff <(numbers_of undisturbed) <(numbers_of killed) | cut -c1-300 | head -20 >&2
  exit 1
fi
if ! cmp <(table_of undisturbed.out) <(table_of killed.out); then
  echo "experiment_kill: the tables differ" >&2
  exit 1
fi
# Nothing is left to do, and a second run says so without running anything.
before=$(stamps_of killed)
"$moelora" experiment --config config.json --output killed --resume >again.out 2>&1
[ "$before" = "$(stamps_of killed)" ] || { echo "experiment_kill: a finished experiment ran cells again" >&2; exit 1; }
echo "experiment_kill: $kills kills, $cells cells, same results, answers and table"
