#!/usr/bin/env bash
# Trains and evaluates with several processes and compares with one: the same losses (1e-5 relative, dropout on), the
# same answers; a killed rank is named by all others, which end with exit code 1 within 60 s; a run of 2 ranks is
# resumed by 1. Exit codes: 0 all holds, 1 something does not, 77 this build has no process groups.
#
#   tests/e2e/ranks.sh PROGRAM [RANKS="2 4"] [STEPS=20] [SIGNALS="KILL"] [BATCH=8]; STEPS > 10
#   tests/e2e/ranks.sh build/bin/moelora "2 3 4" 60 "KILL STOP" 32      the long form
#
# MOELORA_E2E_BASE=FOLDER takes another base than examples/tiny_base/model, MOELORA_E2E_TARGETS its linears as JSON.
# With MOELORA_RANKS_RESULTS=FILE each comparison is also appended to FILE as a JSON line (tests/benchmarks/run.sh).
set -euo pipefail
program=$(realpath "$1")
ranks=${2:-2 4}
steps=${3:-20}
signals=${4:-KILL}
batch=${5:-8}
[ "$steps" -gt 10 ] || { echo "ranks: expected more than 10 steps, found $steps" >&2; exit 1; }
results=${MOELORA_RANKS_RESULTS:-/dev/null}
[ "$results" = /dev/null ] || results=$(realpath "$results")
root=$(realpath "$(dirname "${BASH_SOURCE[0]}")/../..")
base=$(realpath "${MOELORA_E2E_BASE:-$root/examples/tiny_base/model}")
targets=${MOELORA_E2E_TARGETS:-'["query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"]'}
work=$(mktemp -d "${TMPDIR:-/tmp}/moelora-ranks-XXXXXX")
pids=()
trap 'for pid in "${pids[@]}"; do kill -9 "$pid" 2>/dev/null || true; done; rm -rf "$work"' EXIT
cd "$work"
# As many processes as cores, or more: one thread each, and waiting ones sleep.
export OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive
unset RANK WORLD_SIZE LOCAL_RANK LOCAL_WORLD_SIZE TORCHELASTIC_USE_AGENT_STORE

say() { echo "ranks: $*"; }
fail() { echo "ranks: $*" >&2; exit 1; }

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

# start N NAME ARGUMENTS…: N ranks of the program in the background; their output in NAME.RANK.out
start() {
  local count=$1 name=$2 port rank
  shift 2
  port=$(free_port)
  pids=()
  for rank in $(seq 0 $((count - 1))); do
    RANK=$rank WORLD_SIZE=$count MASTER_ADDR=127.0.0.1 MASTER_PORT=$port \
      "$program" "$@" >"$name.$rank.out" 2>&1 &
    pids+=($!)
  done
}

# run N NAME ARGUMENTS…: the same, and waits; every rank must end well
run() {
  local rank=0 pid status
  start "$@"
  for pid in "${pids[@]}"; do
    status=0
    wait "$pid" || status=$?
    [ "$status" = 0 ] || { cat "$2.$rank.out" >&2; fail "rank $rank of $1 ($2) ended with $status"; }
    rank=$((rank + 1))
  done
  pids=()
}

cat >config.json <<JSON
{"model": {"path": "$base"},
 "adapter": {"rank": 16, "num_experts": 8, "alpha": 32, "dropout": 0.1, "targets": $targets},
 "data": {"train": "$root/examples/sample_data/train.json", "validation_size": 24, "max_source_length": 256,
          "max_target_length": 128},
 "training": {"steps": $steps, "batch_size": $batch, "micro_batch_tokens": 1024, "learning_rate": 2e-3,
              "warmup_steps": 4, "checkpoint_every": 10, "log_every": 5, "threads": 1, "seed": 7}}
JSON

# compare NAME MEASURE: the log of NAME against that of one process
compare() {
  python3 - one "$1" "$2" 1e-5 >>"$results" <<'PYTHON' || fail "the losses of $1 differ from one process's"
import json, sys
one, other, measure, bar = sys.argv[1:]
lines = [[json.loads(line) for line in open(f"{name}/log.jsonl")] for name in (one, other)]
# What was changed on resuming has a line of its own.
lines = [[line for line in log if "changes" not in line] for log in lines]
worst = 0.0
same = len(lines[0]) == len(lines[1])
for a, b in zip(*lines):
    same = same and all(a.get(key) == b.get(key) for key in ("step", "tokens", "epoch", "lr"))
    for key in ("loss", "validation_loss"):
        if key in a:
            worst = max(worst, abs(a[key] - b[key]) / abs(a[key]))
    for key in ("loss_by_task", "validation_loss_by_task"):
        for task, value in a.get(key, {}).items():
            worst = max(worst, abs(value - b[key][task]) / abs(value))
holds = same and worst <= float(bar)
print(f"ranks: {measure}: largest relative difference {worst:.2g} in {len(lines[0])} log lines", file=sys.stderr)
print(json.dumps({"row": 11, "measure": measure, "value": worst, "better": "smaller", "bar": float(bar), "holds": holds}))
sys.exit(0 if holds else 1)
PYTHON
}

if ! "$program" --version | grep -q 'process groups: gloo'; then
  echo "SKIPPED: this build has no process groups (gloo's headers are missing)"
  exit 77
fi

"$program" train --config config.json --output one >one.out 2>&1 || { cat one.out >&2; fail "one process failed"; }
for count in $ranks; do
  run "$count" "ranks-$count" train --config config.json --output "ranks-$count"
  compare "ranks-$count" "losses of $steps steps with $count processes / with one, relative difference"
done

# A lost rank.
last=${ranks##* }
for signal in $signals; do
  name=lost-$signal
  start "$last" "$name" train --config config.json --set training.steps=1000000 --output "$name"
  until [ -f "$name/log.jsonl" ] && [ "$(wc -l <"$name/log.jsonl")" -ge 13 ]; do
    kill -0 "${pids[1]}" || { cat "$name.1.out" >&2; fail "rank 1 ended before its signal"; }
    sleep 0.05
  done
  begin=$(date +%s)
  kill -"$signal" "${pids[1]}"
  for rank in $(seq 0 $((last - 1))); do
    [ "$rank" != 1 ] || continue
    status=0
    wait "${pids[$rank]}" 2>/dev/null || status=$?
    [ "$status" = 1 ] || fail "rank $rank ended with $status after SIG$signal of rank 1"
    grep -q "error: rank 1 of $last stopped answering (step [0-9]*)" "$name.$rank.out" ||
      { cat "$name.$rank.out" >&2; fail "rank $rank does not name rank 1"; }
  done
  took=$(($(date +%s) - begin))
  kill -9 "${pids[1]}" 2>/dev/null || true
  wait "${pids[1]}" 2>/dev/null || true
  pids=()
  [ "$took" -le 60 ] || fail "it took $took s to notice the lost rank"
  [ -f "$name/checkpoints/step-10/state.json" ] || fail "no checkpoint is left of the lost run"
  [ -z "$(find "$name" -name '*.tmp-*')" ] || fail "half-written files: $(find "$name" -name '*.tmp-*')"
  say "SIG$signal of rank 1: all others named it and ended with exit code 1 within $took s"
done

# Two ranks begin, one goes on.
first=10  # where a checkpoint and a validation are due anyway
run 2 resumed train --config config.json --set training.steps="$first" --set training.schedule=constant \
  --output resumed
"$program" train --config config.json --set training.schedule=constant --output one-constant >one-constant.out 2>&1
"$program" train --config config.json --set training.schedule=constant --output resumed --resume >resumed.out 2>&1 ||
  { cat resumed.out >&2; fail "resuming with one process failed"; }
grep -q 'began with 2 processes and goes on with 1' resumed.out || fail "no warning about the number of processes"
mv one one-linear
mv one-constant one
compare resumed "losses of a run begun with 2 processes, resumed with one / of one, relative difference"

# The same answers.
dev=$root/examples/sample_data/dev.json
head -n 40 "$dev" >some.json
evaluate="eval --model $base --adapter one/adapter --data some.json --batch-size 4
          --max-new-tokens 24 --threads 1"
# shellcheck disable=SC2086  # a list of words
"$program" $evaluate --output eval-one >eval-one.out 2>&1 || { cat eval-one.out >&2; fail "eval failed"; }
# shellcheck disable=SC2086
run 2 eval-two $evaluate --output eval-two
cmp eval-one/predictions.json eval-two/predictions.json || fail "two processes answer differently"
say "two processes give the answers of one"
