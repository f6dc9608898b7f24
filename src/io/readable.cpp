#include "moelora/io/readable.h"

#include <algorithm>
#include <cstdio>

namespace moelora::io {
namespace {

template <typename... Values>
std::string printed(const char* format, Values... values) {
  const int length = std::snprintf(nullptr, 0, format, values...);
  std::string text(static_cast<std::size_t>(length), '\0');
  std::snprintf(text.data(), text.size() + 1, format, values...);
  return text;
}

}  // namespace

std::string fixed(double value, int decimals) { return printed("%.*f", decimals, value); }

std::string significant(double value, int digits) { return printed("%.*g", digits, value); }

std::string with_commas(std::int64_t count) {
  std::string digits = std::to_string(count);
  for (auto place = static_cast<std::int64_t>(digits.size()) - 3; place > (count < 0 ? 1 : 0); place -= 3) {
    digits.insert(static_cast<std::size_t>(place), 1, ',');
  }
  return digits;
}

std::string duration_text(double seconds) {
  const auto whole = static_cast<long long>(std::max(0.0, seconds) + 0.5);
  if (whole < 60) {
    return printed("%llds", whole);
  }
  if (whole < 3600) {
    return printed("%lldm%02llds", whole / 60, whole % 60);
  }
  return printed("%lldh%02lldm", whole / 3600, whole % 3600 / 60);
}

std::string rounded_duration(double seconds) {
  if (seconds < 90) {
    return fixed(seconds, 0) + " s";
  }
  if (seconds < 5400) {
    return fixed(seconds / 60, 1) + " min";
  }
  return fixed(seconds / 3600, 1) + " h";
}

std::string joined(const std::vector<std::string>& texts, std::string_view separator) {
  std::string all;
  for (std::size_t i = 0; i < texts.size(); ++i) {
    all.append(i == 0 ? std::string_view() : separator).append(texts[i]);
  }
  return all;
}

}  // namespace moelora::io
