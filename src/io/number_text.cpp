#include "io/number_text.h"

namespace moelora::io {

std::string with_commas(std::int64_t number) {
  std::string text = std::to_string(number);
  const std::size_t first = number < 0 ? 1 : 0;  // a sign stays in front
  for (std::size_t at = text.size(); at > 3 + first;) {
    at -= 3;
    text.insert(at, ",");
  }
  return text;
}

}  // namespace moelora::io
