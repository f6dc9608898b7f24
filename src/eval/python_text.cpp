#include "moelora/eval/python_text.h"

#include <algorithm>
#include <array>

namespace moelora::eval::text {
namespace {

struct CodePointRange {
  char32_t first;
  char32_t last;
};

// Wide and full-width blocks (Unicode's East Asian Width), merged where nothing narrow of note lies between.
constexpr std::array<CodePointRange, 13> kWideRanges{{{0x1100, 0x115F},
                                                      {0x2E80, 0x303E},
                                                      {0x3041, 0x33FF},
                                                      {0x3400, 0x4DBF},
                                                      {0x4E00, 0xA4CF},
                                                      {0xAC00, 0xD7A3},
                                                      {0xF900, 0xFAFF},
                                                      {0xFE30, 0xFE6F},
                                                      {0xFF00, 0xFF60},
                                                      {0xFFE0, 0xFFE6},
                                                      {0x1F300, 0x1F64F},
                                                      {0x1F900, 0x1F9FF},
                                                      {0x20000, 0x3FFFD}}};
constexpr std::array<CodePointRange, 4> kZeroWidthRanges{
    {{0x0300, 0x036F}, {0x200B, 0x200F}, {0xFE00, 0xFE0F}, {0xFEFF, 0xFEFF}}};

template <std::size_t Count>
bool lies_in(const std::array<CodePointRange, Count>& ranges, char32_t c) {
  return std::any_of(ranges.begin(), ranges.end(),
                     [c](const CodePointRange& r) { return c >= r.first && c <= r.last; });
}

}  // namespace

CodePoint code_point_at(std::string_view text, std::size_t offset) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[offset + i]); };
  const unsigned char lead = byte(0);
  if (lead < 0x80) return {lead, 1, true};
  const std::size_t size = lead >= 0xF0 && lead <= 0xF4  ? 4
                           : lead >= 0xE0 && lead < 0xF0 ? 3
                           : lead >= 0xC2 && lead < 0xE0 ? 2
                                                         : 0;
  if (size == 0 || offset + size > text.size()) return {0xFFFD, 1, false};
  char32_t value = lead & (0x7F >> size);
  for (std::size_t i = 1; i < size; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return {0xFFFD, 1, false};
    value = (value << 6) | (byte(i) & 0x3F);
  }
  constexpr std::array<char32_t, 5> kSmallest{0, 0, 0x80, 0x800, 0x10000};
  const bool surrogate = value >= 0xD800 && value <= 0xDFFF;
  if (value < kSmallest[size] || value > 0x10FFFF || surrogate) return {0xFFFD, 1, false};
  return {value, size, true};
}

bool is_space(char32_t c) {
  return (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

std::string_view strip(std::string_view text) {
  while (!text.empty()) {
    const CodePoint first = code_point_at(text, 0);
    if (!is_space(first.value)) break;
    text.remove_prefix(first.size);
  }
  while (!text.empty()) {
    std::size_t start = text.size() - 1;
    while (start > 0 && text.size() - start < 4 && (static_cast<unsigned char>(text[start]) & 0xC0) == 0x80) --start;
    const CodePoint last = code_point_at(text, start);
    if (start + last.size != text.size() || !is_space(last.value)) break;
    text.remove_suffix(last.size);
  }
  return text;
}

std::vector<std::string_view> split(std::string_view text, std::string_view separator) {
  std::vector<std::string_view> pieces;
  for (;;) {
    const std::size_t at = text.find(separator);
    if (at == std::string_view::npos) break;
    pieces.push_back(text.substr(0, at));
    text.remove_prefix(at + separator.size());
  }
  pieces.push_back(text);
  return pieces;
}

std::vector<std::string_view> words(std::string_view text) {
  std::vector<std::string_view> found;
  std::size_t start = std::string_view::npos;
  std::size_t offset = 0;
  while (offset < text.size()) {
    const CodePoint c = code_point_at(text, offset);
    if (is_space(c.value)) {
      if (start != std::string_view::npos) found.push_back(text.substr(start, offset - start));
      start = std::string_view::npos;
    } else if (start == std::string_view::npos) {
      start = offset;
    }
    offset += c.size;
  }
  if (start != std::string_view::npos) found.push_back(text.substr(start));
  return found;
}

std::string replace(std::string_view text, std::string_view from, std::string_view to, std::int64_t limit) {
  std::string result;
  result.reserve(text.size());
  for (std::int64_t done = 0; limit < 0 || done < limit; ++done) {
    const std::size_t at = text.find(from);
    if (at == std::string_view::npos) break;
    result.append(text.substr(0, at)).append(to);
    text.remove_prefix(at + from.size());
  }
  return result.append(text);
}

std::string_view drop_front(std::string_view text, std::int64_t count) {
  for (; count > 0 && !text.empty(); --count) text.remove_prefix(code_point_at(text, 0).size);
  return text;
}

std::vector<std::string_view> characters(std::string_view text) {
  std::vector<std::string_view> found;
  found.reserve(text.size() / 2);
  for (std::size_t offset = 0; offset < text.size();) {
    const std::size_t size = code_point_at(text, offset).size;
    found.push_back(text.substr(offset, size));
    offset += size;
  }
  return found;
}

std::int64_t display_width(std::string_view text) {
  std::int64_t width = 0;
  for (std::size_t offset = 0; offset < text.size();) {
    const CodePoint c = code_point_at(text, offset);
    width += lies_in(kWideRanges, c.value) ? 2 : lies_in(kZeroWidthRanges, c.value) ? 0 : 1;
    offset += c.size;
  }
  return width;
}

std::string valid_utf8(std::string_view text) {
  std::string result;
  result.reserve(text.size());
  for (std::size_t offset = 0; offset < text.size();) {
    const CodePoint c = code_point_at(text, offset);
    result.append(c.valid ? text.substr(offset, c.size) : std::string_view("\xEF\xBF\xBD"));
    offset += c.size;
  }
  return result;
}

}  // namespace moelora::eval::text
