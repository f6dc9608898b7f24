#include "moelora/io/saved_names.h"

#include <algorithm>
#include <array>

#include "io/edit_distance.h"
#include "moelora/io/error.h"

namespace moelora::io {
namespace {

constexpr std::array<std::string_view, 4> kWrapperComponents{"_orig_mod", "_fsdp_wrapped_module",
                                                             "_checkpoint_wrapped_module", "_forward_module"};
constexpr std::size_t kLongestCompared = 160;  // letters of a name, and
constexpr std::size_t kMostCompared = 4000;    // names: hostile files must not make an error slow

std::vector<std::string_view> components_of(std::string_view name) {
  std::vector<std::string_view> parts;
  for (std::size_t begin = 0; begin <= name.size();) {
    const std::size_t end = std::min(name.find('.', begin), name.size());
    parts.push_back(name.substr(begin, end - begin));
    begin = end + 1;
  }
  return parts;
}

std::string side_by_side(const char* first, const std::vector<std::string>& names, const char* second,
                         const std::vector<std::string>& others, std::size_t limit) {
  std::string text;
  for (std::size_t i = 0; i < std::min(limit, names.size()) && !others.empty(); ++i) {
    const std::string* nearest = nullptr;
    std::size_t smallest = 0;
    for (std::size_t j = 0; j < std::min(kMostCompared, others.size()); ++j) {
      const std::size_t distance = edit_distance(std::string_view(names[i]).substr(0, kLongestCompared),
                                                 std::string_view(others[j]).substr(0, kLongestCompared));
      if (nearest == nullptr || distance < smallest) {
        nearest = &others[j];
        smallest = distance;
      }
    }
    text += detail::concat("\n  ", first, " ", names[i], ", ", second, " ", *nearest);
  }
  return text;
}

}  // namespace

std::string without_wrappers(std::string_view name) {
  std::vector<std::string_view> parts = components_of(name);
  std::erase_if(parts, [](std::string_view part) {
    return std::find(kWrapperComponents.begin(), kWrapperComponents.end(), part) != kWrapperComponents.end();
  });
  std::size_t first = 0;
  const auto at = [&](std::size_t i) { return i < parts.size() ? parts[i] : std::string_view(); };
  // The last component is the tensor itself, so it is never a wrapper.
  while (first + 1 < parts.size()) {
    if (at(first) == "module") {
      ++first;
    } else if (at(first) == "base_model") {
      first += at(first + 1) == "model" && first + 2 < parts.size() ? 2 : 1;
    } else if (at(first) == "model" && (at(first + 1) == "module" || at(first + 1) == "base_model")) {
      ++first;
    } else {
      break;
    }
  }
  std::string result;
  for (std::size_t i = first; i < parts.size(); ++i) {
    result.append(i == first ? "" : ".").append(parts[i]);
  }
  return result;
}

std::string lines_of(std::string_view what, const std::vector<std::string>& entries, std::size_t limit) {
  std::string text;
  for (std::size_t i = 0; i < std::min(limit, entries.size()); ++i) {
    text += detail::concat("\n  ", what, ": ", entries[i]);
  }
  if (entries.size() > limit) {
    text += detail::concat("\n  ", what, ": … and ", entries.size() - limit, " more, ", entries.size(), " in all");
  }
  return text;
}

std::string in_a_row(const std::vector<std::string>& entries, std::size_t limit) {
  std::string text;
  for (std::size_t i = 0; i < std::min(limit, entries.size()); ++i) {
    text += (i == 0 ? "" : ", ") + entries[i];
  }
  return entries.size() > limit ? detail::concat(text, ", … (", entries.size(), " in all)") : text;
}

std::string expected_beside_found(const std::vector<std::string>& expected, const std::vector<std::string>& found,
                                  std::size_t limit) {
  return side_by_side("expected", expected, "found", found, limit);
}

std::string found_beside_expected(const std::vector<std::string>& found, const std::vector<std::string>& expected,
                                  std::size_t limit) {
  return side_by_side("found", found, "expected", expected, limit);
}

}  // namespace moelora::io
