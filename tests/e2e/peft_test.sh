#!/usr/bin/env bash
# peft_test.sh DUMP_LOGITS FIXTURES [TASKS]
#
# Exports tasks to PEFT, loads them with Python's `peft` and compares logits. Needs a Python with torch, peft and
# safetensors, the one in $MOELORA_PEFT_PYTHON or python3; without one it says SKIPPED and ends with 77.
set -euo pipefail
dump_logits=$1
fixtures=$2
tasks=${3:-"task1 task8"}
python=${MOELORA_PEFT_PYTHON:-python3}

if ! missing=$("$python" -c 'import torch, peft, safetensors.torch' 2>&1); then
  echo "SKIPPED: $python can't import torch, peft and safetensors (${missing##*$'\n'});" \
    "set MOELORA_PEFT_PYTHON to a Python that can"
  exit 77
fi

output=$(mktemp -d)
trap 'rm -rf "$output"' EXIT
for task in $tasks; do
  mkdir -p "$output/$task"
  "$dump_logits" "$fixtures/chatglm-tiny" "$fixtures/moelora-tiny" "$task" "$output/$task"
  "$python" "$(dirname "$0")/peft_check.py" "$fixtures/chatglm-tiny" "$output/$task"
done
