#!/usr/bin/env bash
# Installs the library, builds the project beside this file against the installed package and runs it; then moves the
# installed tree elsewhere, runs its program and reads an installed configuration. Usage: run.sh BUILD WORK FIXTURES
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
build=$1
work=$2
fixtures=$3
rm -rf "$work"
mkdir -p "$work/moved"
cmake --install "$build" --prefix "$work/prefix" >"$work/install.log" || { cat "$work/install.log"; exit 1; }
cmake -S "$here" -B "$work/build" -DCMAKE_BUILD_TYPE=Release -DCMAKE_PREFIX_PATH="$work/prefix" -DCMAKE_UNITY_BUILD=ON
cmake --build "$work/build"
# Every library of a program is found, and every one that those need.
whole() {
  if ldd "$1" | grep 'not found'; then
    echo "$1 lacks the libraries above"
    exit 1
  fi
}
whole "$work/build/consumer"
"$work/build/consumer" "$fixtures/chatglm-tiny" "$work/adapter"

if [ -x "$work/prefix/bin/moelora" ]; then
  mv "$work/prefix" "$work/moved/moelora"
  program=$work/moved/moelora/bin/moelora
  whole "$program"
  "$program" --version
  "$program" inspect "$work/moved/moelora/share/moelora/configs/chatglm-6b-v100.json" >/dev/null
  # What it loads is the system's C and C++ runtime, LibTorch, or lies beside it.
  if ldd "$program" | grep -E 'sentencepiece|nlopt|protobuf|fmt|spdlog|pcre2|icu' | grep -v "$work/moved/moelora"; then
    echo "A library comes from outside the installed tree"
    exit 1
  fi
fi
