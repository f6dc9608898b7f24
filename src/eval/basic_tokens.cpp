#include "moelora/eval/basic_tokens.h"

#include <algorithm>

#include "eval/unicode_tables.h"
#include "moelora/eval/python_text.h"
#include "moelora/io/utf8.h"

namespace moelora::eval {
namespace {

using text::UnicodeRange;

bool lies_within(std::span<const UnicodeRange> ranges, char32_t c) {
  const auto after = std::upper_bound(ranges.begin(), ranges.end(), c,
                                      [](char32_t value, const UnicodeRange& r) { return value < r.first; });
  return after != ranges.begin() && c <= std::prev(after)->last;
}

bool is_chinese(char32_t c) {
  return (c >= 0x4E00 && c <= 0x9FFF) || (c >= 0x3400 && c <= 0x4DBF) || (c >= 0xF900 && c <= 0xFAFF) ||
         (c >= 0x20000 && c <= 0x2A6DF) || (c >= 0x2A700 && c <= 0x2CEAF) || (c >= 0x2F800 && c <= 0x2FA1F);
}

bool is_ascii_letter_or_digit(char32_t c) {
  return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
}

// All ASCII symbols too, as `$` or `^`, which Unicode doesn't call punctuation.
bool is_punctuation(char32_t c) {
  if (c < 0x80) return c > ' ' && c < 0x7F && !is_ascii_letter_or_digit(c);
  return lies_within(text::unicode_tables().punctuation, c);
}

// Lower case, decomposed, without marks.
void append_folded(char32_t c, std::u32string& folded) {
  if (c < 0x80) {
    folded += c >= 'A' && c <= 'Z' ? c + ('a' - 'A') : c;
    return;
  }
  constexpr char32_t kSyllables = 0xAC00, kLead = 0x1100, kVowel = 0x1161, kTrail = 0x11A7;
  if (c >= kSyllables && c <= 0xD7A3) {
    const char32_t index = c - kSyllables;
    folded += kLead + index / 588;
    folded += kVowel + index % 588 / 28;
    if (index % 28 != 0) folded += kTrail + index % 28;
    return;
  }
  const text::UnicodeTables& tables = text::unicode_tables();
  if (lies_within(tables.non_spacing_marks, c)) return;
  const auto before = [](const auto& entry, char32_t value) { return entry.from < value; };
  if (const auto fold = std::lower_bound(tables.folds.begin(), tables.folds.end(), c, before);
      fold != tables.folds.end() && fold->from == c) {
    folded += fold->to;
    return;
  }
  if (const auto several = std::lower_bound(tables.expansions.begin(), tables.expansions.end(), c, before);
      several != tables.expansions.end() && several->from == c) {
    for (const char32_t part : several->to) {
      if (part != 0) folded += part;
    }
    return;
  }
  folded += c;
}

// Capital sigma has a lower-case form of its own after a cased letter and before none.
bool is_final_sigma(const std::u32string& word, std::size_t at) {
  const text::UnicodeTables& tables = text::unicode_tables();
  const auto cased_beyond = [&](std::ptrdiff_t step) {
    auto i = static_cast<std::ptrdiff_t>(at) + step;
    const auto end = static_cast<std::ptrdiff_t>(word.size());
    while (i >= 0 && i < end && lies_within(tables.case_ignorable, word[static_cast<std::size_t>(i)])) i += step;
    return i >= 0 && i < end && lies_within(tables.cased, word[static_cast<std::size_t>(i)]);
  };
  return cased_beyond(-1) && !cased_beyond(1);
}

class Tokens {
 public:
  void add(char32_t c) { word_ += c; }

  void end_word() {
    std::u32string folded;
    constexpr char32_t kCapitalSigma = 0x3A3, kFinalSigma = 0x3C2;
    for (std::size_t i = 0; i < word_.size(); ++i) {
      append_folded(word_[i], folded);
      if (word_[i] == kCapitalSigma && is_final_sigma(word_, i)) folded.back() = kFinalSigma;
    }
    word_.clear();
    bool joins = false;  // to the token before
    for (const char32_t c : folded) {
      const bool alone = is_punctuation(c);
      if (alone || !joins) tokens_.emplace_back();
      io::append_utf8(tokens_.back(), c);
      joins = !alone;
    }
  }

  std::vector<std::string> take() {
    end_word();
    return std::move(tokens_);
  }

 private:
  std::u32string word_;  // between white space
  std::vector<std::string> tokens_;
};

}  // namespace

std::vector<std::string> basic_tokens(std::string_view text) {
  Tokens tokens;
  for (std::size_t offset = 0; offset < text.size();) {
    const text::CodePoint c = text::code_point_at(text, offset);
    offset += c.size;
    // Also U+FFFD, which invalid bytes are.
    if (c.value == 0xFFFD || lies_within(text::unicode_tables().control, c.value)) continue;
    if (text::is_space(c.value)) {
      tokens.end_word();
    } else if (is_chinese(c.value)) {
      tokens.end_word();
      tokens.add(c.value);
      tokens.end_word();
    } else {
      tokens.add(c.value);
    }
  }
  return tokens.take();
}

}  // namespace moelora::eval
