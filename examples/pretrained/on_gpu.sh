#!/usr/bin/env bash
# The comparison of configs/experiments/english.json on one GPU, for so many seconds; the same command goes on with what is left.
# Needs english/train.json, english/dev.json and the base that examples/pretrained/make_smollm2.py writes.
# Usage: bash examples/pretrained/on_gpu.sh MOELORA OUTPUT SECONDS [KEY=VALUE…]
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 2
[ $# -ge 3 ] || { sed -n '2,4p' "$0"; exit 2; }
moelora=$1 out=$2 seconds=$3
shift 3
resume=()
[ ! -e "$out" ] || resume=(--resume)
timeout --signal=INT --kill-after=20 "$seconds" "$moelora" experiment --config configs/experiments/english.json --output "$out" \
  "${resume[@]}" --set model.device=cuda:0 model.dtype=bfloat16 jobs=5 training.threads=3 keep_adapters=false "$@"
rc=$?
# 124: the time is over.
[ $rc -eq 124 ] && "$moelora" experiment --config "$out/config.json" --output "$out" --report && exit 0
exit $rc
