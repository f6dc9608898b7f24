#!/usr/bin/env bash
# Runs all benchmarks and prints a table of every row. Usage: bash tests/benchmarks/run.sh [CASE…]
# Result lines go to build/benchmarks.jsonl. Run it on a machine that does nothing else; all cases take about
# three quarters of an hour on 2 cores. Not among them unless named: full_size, which needs 30 GB of disk in
# MOELORA_FULL_SIZE (default: /tmp/moelora-full-size).
set -euo pipefail
cd "$(dirname "$0")/../.."
. cmake/setup.sh
# Alone on the machine, waiting threads may spin.
unset OMP_WAIT_POLICY
moelora_setup
moelora_build release moelora_bench moelora_cli moelora_random_model moelora_measure
results=build/benchmarks.jsonl
bench=build/bin/moelora_bench
cases=("$@")
[ ${#cases[@]} -gt 0 ] || cases=(step memory mix experts decode merging scaling plan alone small small_memory small_decode ranks)
"$bench" --hardware >"$results"
for name in "${cases[@]}"; do
  case $name in
    # These run several processes, or the program itself.
    ranks) bash tests/benchmarks/ranks.sh build/bin/moelora ;;
    full_size) bash tests/benchmarks/full_size.sh build/bin/moelora "${MOELORA_FULL_SIZE:-/tmp/moelora-full-size}" ;;
    *) "$bench" "$name" ;;
  esac >>"$results"
done
"$bench" --table "$results"
