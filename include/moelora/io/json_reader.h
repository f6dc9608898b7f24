#pragma once
// Reading a JSON object into typed fields, strictly: a wrong type and a key that nobody asked for are problems, and all
// problems of a file are reported in one Error.
//
//   JsonReader reader(json, "adapter");
//   reader.read("rank", config.rank);          // keeps the default when absent
//   JsonReader gate = reader.child("gate");
//   gate.read("top_k", config.top_k);
//   reader.finish();                           // throws, naming every problem, also those of the children

#include <cstdint>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace moelora::io {

class JsonReader {
 public:
  /// `where` names the object in error texts ("adapter" → "adapter.rank: …"); empty for a whole file. The JSON is
  /// copied. Anything but an object is a problem (null counts as an empty object).
  explicit JsonReader(const nlohmann::ordered_json& json, std::string where = {});

  /// Each returns whether the key is present and of the right type; otherwise `value` stays as it was. An integer may
  /// be written as a whole floating-point number (8e3).
  bool read(const std::string& key, bool& value);
  bool read(const std::string& key, double& value);
  bool read(const std::string& key, std::int64_t& value);
  bool read(const std::string& key, std::uint64_t& value);
  bool read(const std::string& key, std::string& value);
  bool read(const std::string& key, std::vector<std::string>& value);
  bool read(const std::string& key, std::vector<double>& value);
  bool read(const std::string& key, std::vector<std::int64_t>& value);
  bool read(const std::string& key, std::vector<std::vector<double>>& value);
  bool read_or_null(const std::string& key, std::string& value);  ///< null counts as absent.
  /// Any value, unchecked: for sections that another reader interprets.
  bool read(const std::string& key, nlohmann::ordered_json& value);
  /// One of `names`: sets `index`. Another string is a problem that lists them.
  bool read_choice(const std::string& key, const std::vector<std::string>& names, std::size_t& index);

  bool has(const std::string& key) const;    ///< Present and not null; does not count as asking for it.
  JsonReader child(const std::string& key);  ///< The object under `key`; absent: an empty one.
  void problem(const std::string& text);     ///< Adds "where: text" (a value out of range, …) to the list.
  void problem(const std::string& key, const std::string& text);  ///< "where.key: text".

  /// Error listing all problems of this reader and its children, among them every unknown key with the nearest known.
  void finish() const;

 private:
  struct State;
  explicit JsonReader(std::shared_ptr<State> state);
  const nlohmann::ordered_json* find(const std::string& key);

  std::shared_ptr<State> state_;
};

/// The entry of `known` nearest to `name` by edit distance (ASCII case ignored), or an empty string when none is near
/// enough to be what the writer meant.
std::string nearest_name(std::string_view name, const std::vector<std::string>& known);

/// ", did you mean \"x\"?" or, when nothing is near, "; known: a, b, c".
std::string suggestion(std::string_view name, const std::vector<std::string>& known);

}  // namespace moelora::io
