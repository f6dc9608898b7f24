"""Writes src/eval/unicode_tables.cpp from Python's own Unicode data: python3 cmake/unicode_tables.py > FILE.

Run with Python 3.11 (Unicode 14), the version that the recorded outputs of the benchmark's evaluation come from."""

import unicodedata

CODE_POINTS = [c for c in range(0x110000) if not 0xD800 <= c <= 0xDFFF]
CATEGORY = {c: unicodedata.category(chr(c)) for c in CODE_POINTS}


def ranges(holds):
    found = []
    for c in CODE_POINTS:
        if not holds(c):
            continue
        if found and found[-1][1] == c - 1:
            found[-1][1] = c
        else:
            found.append([c, c])
    return found


def folded(c):
    """Lower case, canonically decomposed, without non-spacing marks."""
    decomposed = unicodedata.normalize("NFD", chr(c).lower())
    return [ord(x) for x in decomposed if unicodedata.category(x) != "Mn"]


def makes_sigma_final(text):
    return (text + "\u03a3").lower().endswith("\u03c2")


def is_cased(c):  # and not skipped
    return makes_sigma_final(" " + chr(c))


def is_case_ignorable(c):
    return makes_sigma_final("A" + chr(c)) and not is_cased(c)


def is_hangul_syllable(c):
    return 0xAC00 <= c <= 0xD7A3  # decomposed by a formula


def lines(items):
    line = ""
    for item in items:
        if len(line) + len(item) + 2 > 118:
            yield line.rstrip()
            line = ""
        line += item + ", "
    if line:
        yield line.rstrip().rstrip(",")


def table(kind, name, items):
    body = "\n".join(lines(items))
    return f"constexpr {kind} {name}[] = {{\n{body}}};\n"


def pairs(found):
    return [f"{{0x{first:X}, 0x{last:X}}}" for first, last in found]


def main():
    folds = {c: folded(c) for c in CODE_POINTS if CATEGORY[c] != "Mn" and not is_hangul_syllable(c)}
    single = [(c, to[0]) for c, to in folds.items() if len(to) == 1 and to[0] != c]
    several = [(c, to) for c, to in folds.items() if len(to) != 1]
    assert all(2 <= len(to) <= 3 for _, to in several)
    control = ranges(lambda c: CATEGORY[c][0] == "C" and c not in (9, 10, 13))
    print(f"""// Written by cmake/unicode_tables.py (Unicode {unicodedata.unidata_version}): change that instead.
// clang-format off
#include "eval/unicode_tables.h"

namespace moelora::eval::text {{
namespace {{
""")
    print(table("UnicodeRange", "kControl", pairs(control)))
    print(table("UnicodeRange", "kPunctuation", pairs(ranges(lambda c: CATEGORY[c][0] == "P"))))
    print(table("UnicodeRange", "kNonSpacingMarks", pairs(ranges(lambda c: CATEGORY[c] == "Mn"))))
    print(table("UnicodeRange", "kCased", pairs(ranges(is_cased))))
    print(table("UnicodeRange", "kCaseIgnorable", pairs(ranges(is_case_ignorable))))
    print(table("UnicodeFold", "kFolds", pairs(single)))
    wide = [f"{{0x{c:X}, {{" + ", ".join(f"0x{t:X}" for t in to) + "}}" for c, to in several]
    print(table("UnicodeExpansion", "kExpansions", wide))
    print("""}  // namespace

const UnicodeTables& unicode_tables() {
  static const UnicodeTables tables{kControl, kPunctuation, kNonSpacingMarks, kCased, kCaseIgnorable,
                                    kFolds, kExpansions};
  return tables;
}

}  // namespace moelora::eval::text""")


main()
