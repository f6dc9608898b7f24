#!/usr/bin/env bash
# engines_test.sh MOELORA TASK_LOGITS MODEL [GOLDEN]
#
# Exports an adapter on MODEL in every form and lets the engines load it: PEFT on transformers (as it is and with its
# rank padded), transformers alone (merged models), llama.cpp (GGUF LoRA). Logits must agree to 1e-4 and greedy ids be
# equal, those of the recordings in GOLDEN (default: MODEL) too. Needs a Python with torch, transformers, peft and
# safetensors, and one with llama_cpp_py_sync (llama.cpp itself, compiled), gguf and safetensors: $MOELORA_PEFT_PYTHON,
# $MOELORA_LLAMA_CPP_PYTHON, or python3. What is absent is SKIPPED; with neither the script ends with 77.
set -euo pipefail
moelora=$1
task_logits=$2
model=$(cd "$3" && pwd)
golden=${4:-$model}
check=$(cd "$(dirname "$0")" && pwd)/engine_check.py
export OMP_NUM_THREADS=1

# can NAME PYTHON STATEMENT: whether PYTHON runs STATEMENT; says SKIPPED if not.
can() {
  local missing
  if missing=$("$2" -c "$3" 2>&1); then
    return 0
  fi
  echo "SKIPPED $1: $2 can't \"$3\" (${missing##*$'\n'})"
  return 1
}
peft=${MOELORA_PEFT_PYTHON:-python3}
llama_cpp=${MOELORA_LLAMA_CPP_PYTHON:-python3}
engines=()
if can "PEFT and transformers" "$peft" "import torch, transformers, peft, safetensors.torch"; then
  engines+=(peft merged)
fi
if can "llama.cpp" "$llama_cpp" \
  "import gguf, safetensors.numpy; from llama_cpp_py_sync import _cffi_bindings; _cffi_bindings.get_lib()"; then
  engines+=(llama_cpp)
fi
[ ${#engines[@]} -gt 0 ] || exit 77

output=$(mktemp -d)
trap 'rm -rf "$output"' EXIT
"$task_logits" "$model" "$golden" "$output"
quiet() { "$@" >"$output/log" 2>&1 || { cat "$output/log"; exit 1; }; }
export_as() { quiet "$moelora" export --adapter "$output/adapter" --model "$model" --dtype float32 --all-tasks "$@"; }
export_as --output "$output/peft" --probe
export_as --output "$output/padded" --rank-pad 16,32,64
export_as --output "$output/gguf" --format gguf-lora --probe
export_as --output "$output/gguf-padded" --format gguf-lora --rank-pad 64
quiet "$moelora" merge --adapter "$output/adapter" --model "$model" --dtype float32 --all-tasks --output "$output/merged"

failed=0
for engine in "${engines[@]}"; do
  python=$peft
  [ "$engine" != llama_cpp ] || python=$llama_cpp
  "$python" "$check" "$engine" "$model" "$output" 2>"$output/$engine.log" || {
    tail -n 30 "$output/$engine.log"
    echo "FAILED: $engine on $(basename "$model")"
    failed=1
  }
done
exit $failed
