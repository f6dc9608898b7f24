#!/usr/bin/env bash
# Every path of the repository that README.md, CONTRIBUTING.md and the folders' own README.md files name in backquotes or
# link exists: from the top, or beside the file. Usage: documented_paths.sh ROOT
set -euo pipefail
cd "$1"
missing=0
checked=0
for document in README.md CONTRIBUTING.md configs/experiments/README.md tests/benchmarks/README.md examples/*/README.md; do
  [ -e "$document" ] || { echo "$document does not exist"; missing=1; continue; }
  folder=$(dirname "$document")
  paths=$( { grep -oE '`[^`]+`' "$document" | tr -d '`' | tr ' =' '\n\n'
             grep -oE '\]\([^)#:]+\)' "$document" | sed 's/^](//; s/)$//'
             grep -E '^ *(bash|build/bin/moelora) ' "$document" | tr ' ' '\n'; } |
    grep -E '^(\.ci|cmake|configs|examples|include|src|tests)/|^[A-Za-z_-]+\.(md|json|sh)$|^LICENSE$' |
    grep -vE '[*<>…{}]' | sort -u || true)
  for path in $paths; do
    case $path in
      */* | LICENSE | CMakePresets.json | *.md | *.sh) ;;
      *) [ "$folder" = configs/experiments ] || continue ;;  # elsewhere names of files of model folders
    esac
    checked=$((checked + 1))
    if [ ! -e "$path" ] && [ ! -e "$folder/$path" ]; then
      echo "$document names $path, which does not exist"
      missing=1
    fi
  done
done
[ "$checked" -gt 0 ] || { echo "the documents name no path at all"; exit 1; }
echo "$checked paths checked"
exit $missing
