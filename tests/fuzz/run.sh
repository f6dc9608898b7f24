#!/usr/bin/env bash
# Runs the fuzzers from their seed corpora. Usage: run.sh [--binaries FOLDER] [SECONDS | -runs=N] [TARGET…]
#   bash tests/fuzz/run.sh                        all, a minute each
#   bash tests/fuzz/run.sh -runs=1000000 adapter  one, a million inputs
#   FOLDER: where moelora_fuzz lies (build/bin; the target `fuzzers` builds it)
# A crash, a leak, more than 1 GB of memory (also in one allocation) or more than 5 s for an input is a failure: exit
# code 1, and the input lies in the folder that is named. Without the programs: exit code 77.
# What the seeds of `corpus` broke before the readers were bounded: records with a deeply nested history (the stack ran
# out in the text of an error), pickles whose calls copy what they are given (`multiply`), configurations of models and
# adapters that claim more than their files hold (`huge…`), expressions as targets that take exponential time. Each is a
# unit test too (BoundedReaders, BoundedModels, BoundedAdapters, Records).
# New inputs of interest are kept in $MOELORA_FUZZ_CORPUS/TARGET if that is set.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
binaries=$here/../../build/bin
if [ "${1:-}" = --binaries ]; then
  binaries=$2
  shift 2
fi
budget=-max_total_time=60
case ${1:-} in
  -runs=*) budget=$1; shift ;;
  [0-9]*) budget=-max_total_time=$1; shift ;;
esac
targets=("$@")
[ $# -gt 0 ] || targets=(safetensors gguf checkpoint config records fields adapter tokenizer tokenizer_json)

# Without a quarantine of freed memory the limit is about what the readers themselves hold.
export ASAN_OPTIONS=detect_leaks=1:detect_container_overflow=0:quarantine_size_mb=16:malloc_context_size=10
export UBSAN_OPTIONS=print_stacktrace=1
export LSAN_OPTIONS=suppressions=$here/../support/leaks.supp:print_suppressions=0
export OMP_NUM_THREADS=1
failed=0
for target in "${targets[@]}"; do
  program=$binaries/moelora_fuzz
  if [ ! -x "$program" ]; then
    echo "SKIPPED: no $program (it needs clang with libFuzzer; Debian: clang libclang-rt-14-dev)"
    exit 77
  fi
  work=$(mktemp -d)
  kept=${MOELORA_FUZZ_CORPUS:-$work/new}/$target
  mkdir -p "$work/found" "$kept"
  dictionary=()
  [ ! -f "$here/$target.dict" ] || dictionary=("-dict=$here/$target.dict")
  # TMPDIR: the folders that a fuzzer makes are removed even if it is killed.
  TMPDIR=$work MOELORA_FUZZ_TARGET=$target nice "$program" "$budget" -timeout=5 -rss_limit_mb=1024 \
    -malloc_limit_mb=1000 -max_len=4096 -print_final_stats=1 -verbosity=1 "${dictionary[@]}" "-artifact_prefix=$work/found/" "$kept" \
    "$here/corpus/$target" >"$work/log" 2>&1
  code=$?
  if [ $code -ne 0 ]; then
    tail -n 60 "$work/log"
    echo "fuzz_$target: FAILED with exit code $code; the input is in $work/found, the log is $work/log"
    failed=1
    continue
  fi
  runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$work/log")
  echo "fuzz_$target: $runs inputs, $(sed -n 's/^stat::average_exec_per_sec: *//p' "$work/log") a second," \
    "peak $(sed -n 's/^stat::peak_rss_mb: *//p' "$work/log") MB, coverage $(grep -o 'cov: [0-9]*' "$work/log" | tail -1)"
  rm -rf "$work"
done
exit $failed
