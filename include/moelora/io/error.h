#pragma once
// The error of bad input: files, configurations, records, names. Its text says what was expected, what was found and
// what to do. Programs answer it with exit code 2. Broken invariants of our own use TORCH_INTERNAL_ASSERT instead.

#include <sstream>
#include <stdexcept>
#include <string>

namespace moelora {

class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

namespace detail {
template <typename... Parts>
std::string concat(const Parts&... parts) {
  std::ostringstream text;
  (text << ... << parts);
  return text.str();
}
}  // namespace detail

}  // namespace moelora

/// Throws moelora::Error with the concatenated parts unless `condition` holds.
#define MOELORA_CHECK(condition, ...)                                 \
  do {                                                                \
    if (!(condition)) {                                               \
      throw ::moelora::Error(::moelora::detail::concat(__VA_ARGS__)); \
    }                                                                 \
  } while (false)
