#pragma once
// What Python's unicodedata says of code points, as far as BERT's basic tokenizer asks.

#include <cstdint>
#include <span>

namespace moelora::eval::text {

struct UnicodeRange {
  char32_t first;
  char32_t last;
};
struct UnicodeFold {
  char32_t from;
  char32_t to;
};
struct UnicodeExpansion {
  char32_t from;
  char32_t to[3];  ///< 0 at the end
};

/// Each sorted by code point.
struct UnicodeTables {
  std::span<const UnicodeRange> control;      ///< categories C*, unassigned ones too, without tab and line ends
  std::span<const UnicodeRange> punctuation;  ///< categories P*
  std::span<const UnicodeRange> non_spacing_marks;
  std::span<const UnicodeRange> cased;           ///< letters with cases, as far as a capital sigma after them asks
  std::span<const UnicodeRange> case_ignorable;  ///< what it doesn't see
  /// Lower case, canonically decomposed, without non-spacing marks, where that differs from the character. Hangul
  /// syllables are left out: a formula decomposes them.
  std::span<const UnicodeFold> folds;
  std::span<const UnicodeExpansion> expansions;  ///< The same, to two or three characters.
};

const UnicodeTables& unicode_tables();

}  // namespace moelora::eval::text
