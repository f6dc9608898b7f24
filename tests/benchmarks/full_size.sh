#!/usr/bin/env bash
# Runs every verb on a model of ChatGLM-6B's full size and prints one JSON line for each: peak memory, wall and
# processor time (start-up included), and whether the memory keeps its bar. The model (random fp16 weights, 13.4 GB in 8
# shards) is made in FOLDER if it is not there; runs go to FOLDER.runs. Needs 30 GB of disk and 16 GB of free memory;
# about 8 minutes on 2 cores.
#
#   tests/benchmarks/full_size.sh build/bin/moelora FOLDER [VERB…]
#
# A later VERB needs what an earlier one wrote (train's adapter, merge's model). FULL_SIZE_SHAPE gives
# moelora_random_model's options for another shape, such as "--layers 2 --hidden 64 --inner 256 --heads 2 --vocab 1304".
set -euo pipefail

program=$(realpath "$1")
model=$(realpath -m "$2")
shift 2
verbs=("$@")
[ ${#verbs[@]} -gt 0 ] || verbs=(inspect generate train generate_adapter eval merge generate_merged export)
bin=$(dirname "$program")
root=$(realpath "$(dirname "${BASH_SOURCE[0]}")/../..")
runs=$model.runs
mkdir -p "$runs"

if [ ! -e "$model/config.json" ]; then
  rm -rf "$model"
  # shellcheck disable=SC2086
  "$bin/moelora_measure" "write the model" -- "$bin/moelora_random_model" --tokenizer "$root/examples/tiny_base/model" \
    --output "$model" ${FULL_SIZE_SHAPE:-}
fi

# 48 + 16 tokens once cut; two tasks.
text=$(printf '患者三天前受凉后出现咳嗽、发热，体温最高三十九度。%.0s' {1..20})
for task in A B; do
  printf '{"input": "%s", "target": "%s", "task_dataset": "%s", "sample_id": "%s"}\n' "$text" "$text" $task $task
done >"$runs/records.json"
head -n 1 "$runs/records.json" >"$runs/one_record.json"
cat >"$runs/train.json" <<JSON
{"model": {"path": "$model", "dtype": "float16"},
 "adapter": {"rank": 16, "num_experts": 8, "alpha": 32, "dropout": 0.1, "task_embedding_dim": 64},
 "data": {"train": "$runs/records.json", "validation_size": 0, "max_source_length": 48, "max_target_length": 16},
 "training": {"steps": 1, "batch_size": 1, "micro_batch_tokens": 64, "learning_rate": 1e-3, "checkpoint_every": 1,
              "log_every": 1}}
JSON

measure() { # CASE BAR ARGUMENTS… (bar 0: none)
  local name=$1 bar=$2
  shift 2
  "$bin/moelora_measure" "$name" --bar "$bar" -- "$program" "$@"
}

for verb in "${verbs[@]}"; do
  case $verb in
    inspect) measure "inspect" 0 inspect "$model" ;;
    generate)
      measure "load and generate one token" 13.5 generate --model "$model" --dtype float16 --prompt 感冒吃什么药 \
        --max-new-tokens 1
      ;;
    train)
      rm -rf "$runs/run"
      measure "one training step of 64 tokens" 17 train --config "$runs/train.json" --output "$runs/run"
      grep -o '"tokens":[0-9]*\|"seconds":[0-9.]*' "$runs/run/log.jsonl" | paste -sd, |
        sed 's/.*/{"case": "the training step itself", &}/'
      ;;
    generate_adapter)
      measure "generate one token with the adapter" 0 generate --model "$model" --adapter "$runs/run/adapter" \
        --dtype float16 --task A --prompt 感冒吃什么药 --max-new-tokens 1
      ;;
    eval)
      rm -rf "$runs/eval"
      measure "eval on one record, 4 tokens" 0 eval --model "$model" --adapter "$runs/run/adapter" --dtype float16 \
        --data "$runs/one_record.json" --max-source-length 48 --max-new-tokens 4 --output "$runs/eval"
      ;;
    merge)
      rm -rf "$runs/merged"
      measure "merge one task and save" 15 merge --model "$model" --adapter "$runs/run/adapter" --task A \
        --output "$runs/merged"
      ;;
    generate_merged)
      measure "generate one token with the merged model" 0 generate --model "$runs/merged" --dtype float16 \
        --prompt 感冒吃什么药 --max-new-tokens 1
      ;;
    export)
      rm -rf "$runs/exported"
      measure "export the adapter" 0 export --adapter "$runs/run/adapter" --format moelora-peft \
        --output "$runs/exported"
      ;;
    *)
      echo "no verb '$verb'" >&2
      exit 2
      ;;
  esac
done
