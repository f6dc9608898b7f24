#pragma once
// A part of tokenizer.json: typed access to its keys, and errors that name file and place. A key that nobody asked for
// is an error, since it may change the ids.

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

namespace moelora::model::tokenizers {

/// A sorted map: the ordered one of configurations takes quadratic time over a vocabulary.
using Json = nlohmann::json;

class JsonPart {
 public:
  /// `where`: file and path of the part, for messages. Error: no object.
  JsonPart(const Json& json, std::string where);

  const std::string& where() const { return where_; }
  std::string type() const;  ///< Under "type". Error: no string.
  /// The value under `key`, or nullptr if it is absent or null.
  const Json* find(const std::string& key);
  bool flag(const std::string& key, bool otherwise);
  std::string text(const std::string& key);  ///< Error: absent.
  std::string text(const std::string& key, const std::string& otherwise);
  std::int64_t number(const std::string& key, std::int64_t otherwise);
  const std::vector<Json>& list(const std::string& key);  ///< Error: absent, or no array.
  JsonPart child(const std::string& key);                 ///< Error: absent, or no object.
  JsonPart at(const std::string& key, std::size_t index, const Json& json) const;
  /// Calls visit(entry, where it stands) for the entries of such a list.
  template <class Visit>
  void each(const std::string& key, const Visit& visit) {
    const std::vector<Json>& entries = list(key);
    for (std::size_t i = 0; i < entries.size(); ++i) {
      visit(entries[i], where_ + "." + key + "[" + std::to_string(i) + "]");
    }
  }

  /// Error, naming each, if the part has keys that were not asked for.
  void finish() const;
  /// Error: "<where>: <what> is not supported".
  [[noreturn]] void refuse(const std::string& what) const;
  [[noreturn]] void wrong(const std::string& key, const std::string& expected) const;

 private:
  const Json& json_;
  std::string where_;
  std::set<std::string> asked_;
};

constexpr int kDeepest = 16;  // of parts in parts; published files have two levels

}  // namespace moelora::model::tokenizers
