#pragma once
// Finds where a JSON value ends, and where exactly one breaks off, in a text that may hold many.

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace moelora::data {

/// Where a text breaks the grammar of JSON, and how. Thrown by scan_json.
struct JsonFault {
  std::size_t at = 0;
  std::string what;
};

struct JsonExtent {
  struct Member {
    std::string_view key;  ///< as written, without quotes
    std::size_t value = 0;
    std::size_t value_end = 0;

    std::string name() const;  ///< The key, its escapes resolved.
  };
  std::size_t end = 0;          ///< behind the value's last character
  std::vector<Member> members;  ///< of the value itself if it is an object, in their order
};

/// The JSON value that begins at text[begin]: strict JSON in valid UTF-8, brackets nested 200 deep at most, no key
/// twice in an object, in whatever spelling.
JsonExtent scan_json(std::string_view text, std::size_t begin);

}  // namespace moelora::data
