#!/usr/bin/env bash
# What only a machine with a GPU can show, in two calls of at most nine minutes each, without a network:
#
#   bash tests/gpu/run.sh build      puts the programs into build/gpu/{bin,lib}: builds them with the preset cuda, against
#                                    the LibTorch of Python's site-packages if there is one; or takes those that lie there
#                                    already, built elsewhere (any machine does: kernels are compiled for the card when
#                                    they run)
#   bash tests/gpu/run.sh measure    runs the tests of device code on the GPU, `moelora verify`, a killed and resumed
#                                    training, the benchmarks and compute-sanitizer; writes build/gpu/results.json
#   python3 tests/gpu/table.py build/gpu/results.json     prints its table, for tests/benchmarks/README.md
#
# --dry-run after either prints the commands instead. To try the script itself without a GPU:
#   GPU_DEVICE=cpu GPU_SHAPE=tiny GPU_DTYPES=float32 bash tests/gpu/run.sh measure
# GPU_TORCH names the folder of a LibTorch (default: that of Python's package torch), GPU_PRESET another preset to build
# (v100), GPU_SECONDS the time that `measure` may take.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 2
root=$PWD
verb=${1:-}
dry=
[ "${2:-}" != --dry-run ] || dry=1
device=${GPU_DEVICE:-cuda:0}
shape=${GPU_SHAPE:-6b}
preset=${GPU_PRESET:-cuda}
seconds=${GPU_SECONDS:-520}
programs=(moelora moelora_gpu_bench nn_tests device_code)
out=$root/build/gpu
bin=$out/bin
results=$out/results.jsonl

say() { printf '== %s\n' "$*"; }
run() {
  if [ -n "$dry" ]; then printf '%s\n' "$*"; else "$@"; fi
}
torch=${GPU_TORCH:-$(python3 -c 'import importlib.util as u; s = u.find_spec("torch"); print(s.submodule_search_locations[0] if s else "")' 2>/dev/null)}

# ---- build

build() {
  local name
  for name in "${programs[@]}"; do
    [ -x "$bin/$name" ] || { build_here; return; }
  done
  say "taking the programs in build/gpu/bin (remove that folder to build them anew)"
}

build_here() {
  local options=(-DMOELORA_EXAMPLES=OFF) targets=(moelora_cli moelora_gpu_bench nn_tests device_code)
  if [ -n "$torch" ] && [ "$preset" = cuda ]; then options+=("-DMOELORA_LIBTORCH_ROOT=$torch"); fi
  say "building with the preset $preset, LibTorch ${torch:-of the preset}"
  run cmake --preset "$preset" "${options[@]}" || exit 1
  run cmake --build "build-$preset" --parallel "$(nproc)" --target "${targets[@]}" || exit 1
  stage "build-$preset/bin"
}

# Programs, and the few shared libraries that are neither the system's nor LibTorch's.
stage() {
  local from=$1 name
  run mkdir -p "$bin" "$out/lib"
  for name in "${programs[@]}"; do
    run cp "$from/$name" "$bin/$name"
    run strip "$bin/$name"
    [ -n "$dry" ] && continue
    ldd "$from/$name" | awk '$2 == "=>" && $3 ~ /^\// {print $3}' |
      grep -E '/lib(sentencepiece|sentencepiece_train|pcre2-8|icuuc|icudata|protobuf|protobuf-lite|nlopt|absl)[^/]*$' |
      while read -r library; do cp -L "$library" "$out/lib/"; done
  done
}

# ---- measure

left() { echo $((seconds - SECONDS)); }

# step NAME LIMIT COMMAND…: within the time that is left; its exit code and seconds become a line of the results.
step() {
  local name=$1 limit=$2 rc begin=$SECONDS
  shift 2
  if [ -n "$dry" ]; then printf '%s: timeout %s %s\n' "$name" "$limit" "$*"; return 0; fi
  if [ "$(left)" -lt 15 ]; then
    printf '{"check": "%s", "skipped": "no time left"}\n' "$name" >>"$results"
    return 0
  fi
  [ "$limit" -le "$(left)" ] || limit=$(left)
  say "$name"
  timeout "$limit" "$@" >"$out/logs/$name.log" 2>&1
  rc=$?
  tail -n 3 "$out/logs/$name.log"
  if [ $rc -eq 3 ]; then  # of tests/gpu/peft_step.py
    printf '{"check": "%s", "skipped": "transformers or PEFT is not installed"}\n' "$name" >>"$results"
    return 0
  fi
  printf '{"check": "%s", "passed": %s, "exit_code": %d, "seconds": %d}\n' "$name" \
    "$([ $rc -eq 0 ] && echo true || echo false)" $rc $((SECONDS - begin)) >>"$results"
  return $rc
}

# bench NAME LIMIT ARGUMENTS…: lines of moelora_gpu_bench go to the results.
bench() {
  local name=$1 limit=$2
  shift 2
  step "$name" "$limit" bash -c '"$@" >"$0"' "$out/logs/$name.jsonl" "$bin/moelora_gpu_bench" --device "$device" \
    --shape "$shape" "$@"
  # What was measured before an error counts.
  [ -n "$dry" ] || grep -h '^{' "$out/logs/$name.jsonl" >>"$results" 2>/dev/null
}

verify() { # DTYPE FACTOR FOLDER…
  local dtype=$1 factor=$2 folder
  shift 2
  for folder in "$@"; do
    step "verify-$dtype-$folder" 60 "$bin/moelora" verify "tests/fixtures/$folder" --device "$device" --dtype "$dtype" \
      --tolerance-factor "$factor" --json "$out/logs/verify-$dtype-$folder.json"
  done
}

# The same bytes after a kill, at a step that no checkpoint was written at.
resume() {
  local train
  train=("$bin/moelora" train --config configs/quickstart.json --set training.steps=60 --set training.checkpoint_every=10
    --set "model.device=$device" --set training.log_every=1 --set adapter.dropout=0.1)
  rm -rf "$out/whole" "$out/killed"
  "${train[@]}" --output "$out/whole" || return 1
  "${train[@]}" --output "$out/killed" &
  local child=$!
  until grep -q '"step": *25' "$out/killed/log.jsonl" 2>/dev/null || ! kill -0 $child 2>/dev/null; do sleep 0.05; done
  kill -9 $child 2>/dev/null
  wait $child 2>/dev/null
  "${train[@]}" --output "$out/killed" --resume || return 1
  cmp "$out/whole/adapter/adapter.safetensors" "$out/killed/adapter/adapter.safetensors" && echo "the same bytes"
}

# Times of other people's code on the same samples and card.
peft() {
  local dtype=$1
  "$bin/moelora_gpu_bench" lengths --device "$device" --shape "$shape" | grep lengths >"$out/logs/lengths.json" || return 1
  python3 tests/gpu/peft_step.py "$out/logs/lengths.json" --device "$device" --shape "$shape" --dtype "$dtype" \
    >"$out/logs/peft.jsonl" || return
  cat "$out/logs/peft.jsonl" >>"$results"
}

measure() {
  local filter='*Device*:*OnDevice*:-DeviceFoldTakes*:HostThreads*' dtype dtypes tool
  run mkdir -p "$out/logs"
  if [ -z "$dry" ]; then
    : >"$results"
    for name in "${programs[@]}"; do
      [ -x "$bin/$name" ] || { echo "no $bin/$name: run.sh build comes first" >&2; exit 2; }
    done
  fi
  local library folders=$out/lib
  for library in ${torch:+"$torch/lib" "$torch"/../nvidia/*/lib}; do
    [ -d "$library" ] && folders=$folders:$library
  done
  export LD_LIBRARY_PATH=$folders${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
  export MOELORA_SHARED_DIR=${MOELORA_SHARED_DIR:-$root/shared}
  export -f resume peft
  export out bin device shape results
  # On a card with bfloat16 both types.
  dtypes=${GPU_DTYPES:-float16}
  if [ -z "${GPU_DTYPES:-}" ] && nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | grep -qE '^([89]|1[0-9])'; then
    dtypes="float16 bfloat16"
  fi

  if [ "$device" != cpu ]; then
    [ -n "$dry" ] || nvidia-smi >"$out/logs/nvidia-smi.log" 2>&1
    step device-tests 100 env MOELORA_TEST_KERNELS=cuda "$bin/nn_tests" --gtest_filter="$filter"
  else
    step device-tests 100 "$bin/nn_tests" --gtest_filter="$filter"
  fi
  verify float32 10 chatglm-tiny moelora-tiny lora-tiny ptuning-tiny
  step resume 60 bash -c resume
  for dtype in $dtypes; do
    bench "step-$dtype" 100 --dtype "$dtype" step
    bench "decode-$dtype" 80 --dtype "$dtype" decode
    bench "merge-$dtype" 60 --dtype "$dtype" merge
  done
  dtype=${dtypes%% *}
  bench memory 40 --dtype "$dtype" memory
  step peft 90 bash -c "peft $dtype"
  for dtype in $dtypes; do
    # Not moelora-tiny: AdamW makes steps of the learning rate out of gradients that are nothing but rounding.
    verify "$dtype" 1000 chatglm-tiny lora-tiny ptuning-tiny
  done
  if [ "$device" != cpu ] && command -v compute-sanitizer >/dev/null; then
    for tool in memcheck racecheck; do
      step "$tool" 120 env MOELORA_TEST_KERNELS=cuda compute-sanitizer --tool "$tool" --error-exitcode 9 \
        "$bin/nn_tests" --gtest_filter="$filter:DeviceDropoutMasks*"
    done
  else
    [ -n "$dry" ] || printf '{"check": "compute-sanitizer", "skipped": "not here"}\n' >>"$results"
  fi
  [ -n "$dry" ] || python3 tests/gpu/table.py --collect "$out" >"$out/results.json" || exit 1
  [ -n "$dry" ] || python3 tests/gpu/table.py "$out/results.json"
}

case $verb in
  build) build ;;
  measure) measure ;;
  *) sed -n '2,20p' "$0"; exit 2 ;;
esac
