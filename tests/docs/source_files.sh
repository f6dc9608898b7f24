#!/usr/bin/env bash
# Sizes of sources (median below 150 lines, none above 400), and that every source is tested by name: NAME_test.cpp exists,
# or a test includes its header, or tests/docs/sources_without_test.txt says which test covers it. Usage: source_files.sh ROOT
set -euo pipefail
cd "$1"
list=tests/docs/sources_without_test.txt
failed=0
say() { echo "$*"; failed=1; }

sources=$(find include src tests examples -name '*.h' -o -name '*.cpp' -o -name '*.cu' | sort)
sizes=$(echo "$sources" | xargs wc -l | grep -v ' total$')
median=$(echo "$sizes" | awk '{print $1}' | sort -n | awk '{line[NR] = $1} END {print line[int((NR + 1) / 2)]}')
[ "$median" -lt 150 ] || say "the median source has $median lines, expected below 150"
while read -r lines file; do
  # Tables that a program writes are no reading matter.
  if [ "$lines" -gt 400 ] && ! head -n 1 "$file" | grep -q '^// Written by '; then say "$file has $lines lines, expected at most 400"; fi
done <<<"$sizes"

tests=$(find tests -name '*.cpp' -o -name '*.h')
included=$(grep -hoE '^#include "[^"]+"' $tests | sed 's/^#include "//; s/"$//; s#^moelora/##' | sort -u)
named=$(find tests -name '*_test.cpp' -printf '%f\n' | sed 's/_test\.cpp$//' | sort -u)
while read -r source; do
  path=${source#src/}
  path=${path%.*}
  if grep -qxF "$(basename "$path")" <<<"$named" || grep -qxF "$path.h" <<<"$included"; then
    ! grep -q "^$source:" "$list" || say "$list names $source, which a test names too"
  elif ! grep -q "^$source: " "$list"; then
    say "$source has no test that names it; add one, or a line to $list"
  fi
done < <(find src -name '*.cpp' -o -name '*.cu' | sort)
# A line of the list: SOURCE: TEST, reason.
while IFS= read -r line; do
  case $line in '#'* | '') continue ;; esac
  source=${line%%: *}
  test=${line#*: }
  test=${test%%,*}
  [ -e "$source" ] || say "$list names $source, which does not exist"
  [ -e "$test" ] || say "$list: $source is said to be covered by $test, which does not exist"
done <"$list"
echo "$(echo "$sources" | wc -l) sources, median $median lines, largest $(echo "$sizes" | sort -n | tail -n 1 | awk '{print $1}')"
exit $failed
