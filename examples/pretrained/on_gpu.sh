#!/usr/bin/env bash
# The comparison of configs/experiments/english.json on one GPU, for so many seconds; the same command goes on with what is left.
# Needs english/train.json, english/dev.json and the base that examples/pretrained/make_smollm2.py writes.
# Usage: bash examples/pretrained/on_gpu.sh MOELORA OUTPUT SECONDS [KEY=VALUE…]
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 2
[ $# -ge 3 ] || { sed -n '2,4p' "$0"; exit 2; }
moelora=$1 out=$2 seconds=$3
shift 3
# Cells of a model this small leave most of the card idle between their kernels. Through MPS, where NVIDIA's driver came with
# it, kernels of several processes run side by side; without it they take turns.
if command -v nvidia-cuda-mps-control >/dev/null && [ -z "${CUDA_MPS_PIPE_DIRECTORY:-}" ]; then
  CUDA_MPS_PIPE_DIRECTORY=$(mktemp -d)
  export CUDA_MPS_PIPE_DIRECTORY CUDA_MPS_LOG_DIRECTORY=$CUDA_MPS_PIPE_DIRECTORY
  if nvidia-cuda-mps-control -d; then
    trap 'echo quit | nvidia-cuda-mps-control; rm -rf "$CUDA_MPS_PIPE_DIRECTORY"' EXIT
  else
    unset CUDA_MPS_PIPE_DIRECTORY CUDA_MPS_LOG_DIRECTORY
  fi
fi
resume=()
[ ! -e "$out" ] || resume=(--resume)
timeout --signal=INT --kill-after=20 "$seconds" "$moelora" experiment --config configs/experiments/english.json --output "$out" \
  "${resume[@]}" --set model.device=cuda:0 model.dtype=bfloat16 jobs=6 training.threads=2 keep_adapters=false "$@"
rc=$?
# 124: the time is over; 137: and a cell that did not stop was ended.
if [ $rc -eq 124 ] || [ $rc -eq 137 ]; then
  "$moelora" experiment --config "$out/config.json" --output "$out" --report
  rc=$?
fi
exit $rc
