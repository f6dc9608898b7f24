#!/usr/bin/env bash
# From nothing to a merged model: builds moelora, scores a tiny ChatGLM-shaped base on the sample data, trains a MOELoRA
# adapter for all tasks at once, scores it, merges every task and checks that nothing changed.
# Usage: bash examples/quickstart.sh [OUTPUT FOLDER, default out/quickstart]
set -euo pipefail
cd "$(dirname "$0")/.."
. cmake/setup.sh
out=${1:-out/quickstart}

moelora_setup
moelora_build release moelora_cli
moelora=build/bin/moelora
base=examples/tiny_base/model
data=examples/sample_data
start=$SECONDS

if [ -e "$out" ]; then
  echo "Removing the earlier run in $out"
  rm -rf "$out"
fi

moelora_say "The base before training"
$moelora eval --model $base --data $data/dev.json --output "$out/before"

moelora_say "Training MOELoRA"
$moelora train --config configs/quickstart.json --output "$out/run"

moelora_say "The adapter"
$moelora eval --model $base --adapter "$out/run/adapter" --data $data/dev.json --output "$out/after" \
  --before "$out/before/predictions.json" --majority $data/train.json

moelora_say "One merged model per task; answers compared with the adapter's"
$moelora merge --model $base --adapter "$out/run/adapter" --all-tasks --dtype float32 \
  --check $data/dev.json --output "$out/merged"

cat <<END

Done in $((SECONDS - start)) s after the build. Look at
  $out/run/report.html         loss per task, expert weights per task
  $out/after/report.html       scores per task, before and after
  $out/merged/                 one model folder per task, each with its merge_certificate.json
Next:
  $moelora inspect $out/run/adapter
  $moelora generate --model $base --adapter $out/run/adapter --task CHIP-CTC \\
    --prompt \$'临床试验筛选标准归类：\\n孕妇或哺乳期妇女。\\n选项：疾病，怀孕相关，年龄，性别\\n答：'
  $moelora train --help
END
