#pragma once
// The fields of one record's text, by path, and all that is wrong with them.

#include <cstddef>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "moelora/data/field_map.h"
#include "moelora/data/json_scanner.h"
#include "moelora/data/text_template.h"

namespace moelora::data {

/// What kind of JSON value begins with this character.
const char* type_of_value(char first);

/// Reads one record's fields and keeps all that is wrong with them, with its place in the text. Only the fields that
/// are asked for are built: what else a file carries costs nothing.
class RecordFields {
 public:
  RecordFields(std::string_view text, std::size_t begin, const std::vector<JsonExtent::Member>& members)
      : text_(text), begin_(begin), members_(members) {}

  enum class Need {
    filled,   ///< A field that is absent or null is missing, an empty one is a problem.
    present,  ///< A field that is absent or null is missing.
    none,
  };
  enum class Take {
    strings,
    ids,      ///< Numbers too.
    scalars,  ///< Numbers, true and false too, as JSON writes them.
  };
  std::string string(const std::string& path, Need need, Take take);

  /// A template with its fields filled in. `required`: its fields are, and an empty text is a problem.
  std::string filled(const TextTemplate& text, const char* what, bool required, Take take);

  std::vector<std::string> strings(const std::string& path, Take take);
  std::vector<std::pair<std::string, std::string>> rounds(const std::string& path);

  /// Nothing if it is absent or null.
  std::optional<nlohmann::json> find(const std::string& path) const;
  void missing(const std::string& path) { missing_.push_back(path); }
  void problem(const std::string& path, std::string text);

  /// All problems as one fault, with advice where fields are missing. Throws nothing if there are none.
  void check(const std::string& sample_id, const FieldMap& map);

 private:
  const JsonExtent::Member* member_named(std::string_view key) const;
  const JsonExtent::Member* member_of(std::string_view path) const;
  std::string found_fields() const;
  void check_not_another_form(const FieldMap& map) const;

  std::string_view text_;
  std::size_t begin_;
  const std::vector<JsonExtent::Member>& members_;  // in the order of the text
  std::vector<std::string> missing_;
  std::vector<JsonFault> problems_;
};

}  // namespace moelora::data
