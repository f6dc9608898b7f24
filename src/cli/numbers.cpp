#include "cli/numbers.h"

#include <charconv>
#include <optional>
#include <string>

#include "moelora/io/error.h"
#include "moelora/io/utf8.h"

namespace moelora::cli {
namespace {

// The whole text as a number; nothing if it is none or fits no number.
template <typename Number>
std::optional<Number> number_in(const std::string& text) {
  Number number{};
  const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), number);
  return failure == std::errc() && end == text.data() + text.size() ? std::optional(number) : std::nullopt;
}

std::string found(const std::string& text) { return "found '" + io::shortened(text, 30) + "'"; }

}  // namespace

CLI::Validator whole_number(std::uint64_t smallest, std::uint64_t largest) {
  return CLI::Validator(
      [smallest, largest](std::string& text) {
        const auto number = number_in<std::uint64_t>(text);
        return number && *number >= smallest && *number <= largest
                   ? std::string()
                   : detail::concat("expected a whole number from ", smallest, " to ", largest, ", ", found(text));
      },
      "");
}

CLI::Validator number_above(double above, double largest) {
  return CLI::Validator(
      [above, largest](std::string& text) {
        const auto number = number_in<double>(text);
        return number && *number > above && *number <= largest  // neither holds for NaN
                   ? std::string()
                   : detail::concat("expected a number above ", above, " and at most ", largest, ", ", found(text));
      },
      "");
}

}  // namespace moelora::cli
