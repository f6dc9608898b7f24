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
[ ${#cases[@]} -gt 0 ] || cases=(step memory mix experts scaling alone ranks)
bench_cases=()
ranks=
for name in "${cases[@]}"; do
  if [ "$name" = ranks ]; then ranks=1; else bench_cases+=("$name"); fi
done
: >"$results"
[ ${#bench_cases[@]} -eq 0 ] || "$bench" "${bench_cases[@]}" >"$results"
# Several processes of the program itself.
[ -z "$ranks" ] || bash tests/benchmarks/ranks.sh build/bin/moelora >>"$results"
"$bench" --table "$results"
