#pragma once
// What is done with a list of fields (io/fields.h).

#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "moelora/io/fields.h"
#include "moelora/io/json_reader.h"

namespace moelora::io {

/// The fields themselves, by their keys with all sections ("training.steps").
class FieldList : public FieldVisitor {
 public:
  std::vector<std::pair<std::string, Field>> all;
  const Field* find(const std::string& path) const;
  void section(const Field& field, const std::function<void(FieldVisitor&)>& inner) override;

 protected:
  bool visit(const Field& field, FieldValue) override;

 private:
  std::string where_;
};

/// Reads from a JSON object; wrong types, values that break a rule and other programs' keys become its problems, and
/// the reader's finish() finds the keys that no field has.
class FieldReader : public FieldVisitor {
 public:
  /// `names` (must outlive the reader): where other programs' names of our keys stand; they are looked for in every
  /// section, and the problem says what ours is called.
  explicit FieldReader(JsonReader reader, const FieldList* names = nullptr);
  void section(const Field& field, const std::function<void(FieldVisitor&)>& inner) override;

 protected:
  bool visit(const Field& field, FieldValue value) override;
  void check(const Field& field, const std::string& problem) override;

 private:
  JsonReader reader_;
  const FieldList* names_;
};

/// Writes every field, in the order of the list.
class FieldWriter : public FieldVisitor {
 public:
  nlohmann::ordered_json take() { return std::move(json_); }
  void section(const Field& field, const std::function<void(FieldVisitor&)>& inner) override;

 protected:
  bool visit(const Field& field, FieldValue value) override;

 private:
  nlohmann::ordered_json json_ = nlohmann::ordered_json::object();
};

/// Collects which rules are broken, as (key with its sections, text), of a struct that did not come from JSON.
class FieldChecker : public FieldVisitor {
 public:
  std::vector<std::pair<std::string, std::string>> problems;
  void section(const Field& field, const std::function<void(FieldVisitor&)>& inner) override;

 protected:
  bool visit(const Field&, FieldValue) override { return false; }
  void check(const Field& field, const std::string& problem) override;

 private:
  std::string where_;
};

/// `json` as text with a comment line above each key that says what it means; keys that have an example and that `json`
/// lacks are comments. Objects below the sections are one value.
std::string documented_json(const nlohmann::ordered_json& json, const FieldList& fields, const std::string& heading);

}  // namespace moelora::io
