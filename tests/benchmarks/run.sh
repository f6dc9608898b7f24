#!/usr/bin/env bash
# Runs all benchmarks and prints a table of every row. Usage: bash tests/benchmarks/run.sh [CASE…]
# Result lines go to build/benchmarks.jsonl. Run it on a machine that does nothing else; all cases take about half an
# hour on 2 cores.
set -euo pipefail
cd "$(dirname "$0")/../.."
. cmake/setup.sh
# Alone on the machine, waiting threads may spin.
unset OMP_WAIT_POLICY
moelora_setup
moelora_build release moelora_bench moelora_cli
results=build/benchmarks.jsonl
bench=build/bin/moelora_bench
cases=("$@")
[ ${#cases[@]} -gt 0 ] || cases=(step memory mix experts merging scaling)
"$bench" "${cases[@]}" >"$results"
"$bench" --table "$results"
