#include "adapter/core/listed.h"

#include "moelora/io/error.h"

namespace moelora {

std::string listed(const std::vector<std::string>& entries, std::size_t limit) {
  std::string text;
  for (std::size_t i = 0; i < entries.size() && i < limit; ++i) {
    text += "\n  " + entries[i];
  }
  if (entries.size() > limit) {
    text += detail::concat("\n  … and ", entries.size() - limit, " more");
  }
  return text;
}

}  // namespace moelora
