#!/usr/bin/env bash
# Builds everything and runs all tests. Usage: bash tests/run.sh [PRESET [ctest arguments…]]
#   bash tests/run.sh                     the release build, all tests
#   bash tests/run.sh debug               unit tests under address and undefined-behaviour sanitizers
#   bash tests/run.sh tsan                generation from several threads under the thread sanitizer
#   bash tests/run.sh release -R adapter  some tests
set -euo pipefail
cd "$(dirname "$0")/.."
. cmake/setup.sh
preset=${1:-release}
[ $# -eq 0 ] || shift

moelora_setup
moelora_nvrtc
target=all
[ "$preset" != tsan ] || target=threads_tests
moelora_build "$preset" "$target"
moelora_say "Testing"
# Most tests use one core most of the time.
jobs=$(nproc)
[ "$jobs" -le 4 ] || jobs=4
ctest --preset "$preset" --parallel "$jobs" "$@"
