#!/usr/bin/env bash
# Doxygen reads every public header without a warning. Usage: documented_headers.sh ROOT WORK_FOLDER. Exit code 77: no doxygen.
set -euo pipefail
command -v doxygen >/dev/null || { echo "skipped: no doxygen"; exit 77; }
cd "$1"
mkdir -p "$2"
log=$2/warnings.txt
(cat tests/docs/Doxyfile; echo "GENERATE_XML=YES"; echo "OUTPUT_DIRECTORY=$2") | doxygen - 2>"$log" >/dev/null
read_headers=$(grep -c '_8h.*kind="file"' "$2/xml/index.xml")
headers=$(find include -name '*.h' | wc -l)
if [ -s "$log" ] || [ "$read_headers" != "$headers" ]; then
  sort -u "$log"
  echo "doxygen: $read_headers of $headers public headers read, $(sort -u "$log" | wc -l) warnings"
  exit 1
fi
echo "$headers public headers, no warning"
