#!/usr/bin/env bash
# Kills `moelora train` (SIGKILL) at random moments and resumes it each time; the losses and the final adapter must be
# those of an undisturbed run, byte for byte. Exit codes: 0 all equal, 1 a difference.
#
#   tests/e2e/kill_resume.sh build/bin/moelora [kills=20] [seed=1] [steps=150]
set -euo pipefail

# Waiting threads sleep instead of spinning, so that a busy machine does not slow the runs down.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}
moelora=$(realpath "$1")
kills=${2:-20}
RANDOM=${3:-1}
steps=${4:-150}
base=$(realpath "$(dirname "${BASH_SOURCE[0]}")/../fixtures/chatglm-tiny")
work=$(mktemp -d "${TMPDIR:-/tmp}/moelora-kill-XXXXXX")
child=
trap '[ -z "$child" ] || kill -9 "$child" 2>/dev/null || true; rm -rf "$work"' EXIT
cd "$work"

for i in $(seq 1 240); do
  task=$((i % 3))
  printf '{"input": "%s %s %s", "target": "%s", "task_dataset": "task-%s", "sample_id": "%s"}\n' \
    "$i" "$((i * 7 % 31))" "$((i * i % 17))" "$((i * 7 % 31 + task))" "$task" "$i"
done >records.json

cat >config.json <<JSON
{"model": {"path": "$base"},
 "adapter": {"rank": 8, "num_experts": 4, "alpha": 16, "dropout": 0.1, "task_embedding_dim": 8},
 "data": {"train": "records.json", "validation_size": 12, "max_source_length": 64, "max_target_length": 32},
 "training": {"steps": $steps, "batch_size": 8, "micro_batch_tokens": 96, "learning_rate": 1e-3, "warmup_steps": 5,
              "checkpoint_every": 7, "validate_every": 10, "log_every": 3, "seed": 11}}
JSON

# Everything in the log but the clock.
losses() { sed -E 's/,"seconds":[^,}]*//' "$1/log.jsonl"; }

compare() {
  if ! cmp <(losses undisturbed) <(losses "$1"); then
    echo "kill_resume: the losses differ after $2" >&2
    exit 1
  fi
  if ! cmp undisturbed/adapter/adapter.safetensors "$1/adapter/adapter.safetensors"; then
    echo "kill_resume: the final adapters differ after $2" >&2
    exit 1
  fi
}

now_ms() { date +%s%3N; }

begin=$(now_ms)
"$moelora" train --config config.json --output undisturbed >undisturbed.out 2>&1 || { cat undisturbed.out >&2; exit 1; }
whole_ms=$(($(now_ms) - begin))
echo "kill_resume: undisturbed run of $steps steps took $whole_ms ms"

done_kills=0
run=0
while [ "$done_kills" -lt "$kills" ]; do
  run=$((run + 1))
  output=run-$run
  kills_here=0
  finished=0
  while [ "$finished" = 0 ]; do
    resume=
    [ ! -d "$output" ] || resume=--resume
    "$moelora" train --config config.json --output "$output" $resume >"$output.out" 2>&1 &
    child=$!
    if [ "$done_kills" -lt "$kills" ]; then
      # Anywhere from the start of the program to a third of a whole run, so that several kills fit into one run.
      delay=$((RANDOM * 32768 + RANDOM))
      delay=$((delay % (whole_ms / 3) + 20))
      sleep "$(printf '%d.%03d' $((delay / 1000)) $((delay % 1000)))"
      kill -9 "$child" 2>/dev/null || true
    fi
    status=0
    wait "$child" 2>/dev/null || status=$?
    child=
    if [ "$status" = 137 ]; then
      done_kills=$((done_kills + 1))
      kills_here=$((kills_here + 1))
      lines=0
      [ ! -f "$output/log.jsonl" ] || lines=$(wc -l <"$output/log.jsonl")
      echo "kill_resume: kill $done_kills after $delay ms, $lines log lines written"
      continue
    fi
    if [ "$status" != 0 ]; then
      cat "$output.out" >&2
      echo "kill_resume: a resumed run failed" >&2
      exit 1
    fi
    finished=1
  done
  compare "$output" "$kills_here kills in run $run"
  echo "kill_resume: run $run ended with the same losses and bytes after $kills_here kills"
done
echo "kill_resume: $done_kills kills, $run runs, all equal to the undisturbed one"
