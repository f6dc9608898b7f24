#!/usr/bin/env bash
# Every path of the repository that README.md names in backquotes or links exists. Usage: documented_paths.sh ROOT
set -euo pipefail
cd "$1"
missing=0
checked=0
paths=$( { grep -oE '`[^`]+`' README.md | tr -d '`' | tr ' =' '\n\n'; grep -oE '\]\([^)#:]+\)' README.md | sed 's/^](//; s/)$//';
           grep -E '^ *(bash|build/bin/moelora) ' README.md | tr ' ' '\n'; } |
  grep -E '^(\.ci|cmake|configs|examples|include|src|tests)/|^[A-Z]+(\.md)?$|^CMakePresets.json$' | grep -vE '[*<>…{}]' | sort -u)
for path in $paths; do
  case $path in
    LICENSE | README.md | CMakePresets.json | */*) ;;
    *) continue ;;
  esac
  checked=$((checked + 1))
  if [ ! -e "$path" ]; then
    echo "README.md names $path, which does not exist"
    missing=1
  fi
done
[ "$checked" -gt 0 ] || { echo "README.md names no path at all"; exit 1; }
echo "$checked paths checked"
exit $missing
