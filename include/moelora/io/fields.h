#pragma once
// Configurations as lists of fields: a struct has one function that names its fields, and every use of the list is a
// visitor, so a new key is one line. Reading, writing, checking, the text for people and the comparison of a resumed
// run are such visitors (io/field_visitors.h).
//
//   void fields(io::FieldVisitor& visit, TrainingOptions& options) {
//     visit({"steps", "optimizer steps", OnResume::learned}, options.steps, at_least(1));
//     visit.choice({"schedule", "after the rise: linear, cosine or constant"}, kSchedules, options.schedule);
//   }
//
// No goals: defaults (the struct's own), conditions between fields (a function of the struct's), old versions of files.

#include <algorithm>
#include <cstdint>
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <variant>
#include <vector>

#include "moelora/io/error.h"

namespace moelora::io {

/// What another value means to a run that is resumed.
enum class OnResume {
  another_run,  ///< Refused.
  learned,      ///< What is learned changes from here on: allowed, noted.
  rounding,     ///< Sums are only added up in another order: allowed, warned of.
  free,         ///< No number depends on it.
};

/// How other programs call a key of ours.
struct OtherName {
  const char* name;
  const char* advice;  ///< Follows "unknown key; "; null: "use " and our key.
};

struct Field {
  std::string key;
  const char* meaning = "";  ///< For people; may have several lines.
  OnResume on_resume = OnResume::another_run;
  bool written = true;            ///< Whether it is written; keys that exclude others, or are empty, may not be.
  const char* example = nullptr;  ///< JSON shown in a comment where the key is not written.
  bool accepts_null = false;      ///< null counts as absent (texts).
  bool empty_is_null = false;     ///< An empty text is written as null.
  std::vector<OtherName> other_names = {};
};

using FieldValue = std::variant<bool*, double*, std::int64_t*, std::uint64_t*, std::string*, std::vector<std::string>*,
                                std::vector<double>*, std::vector<std::int64_t>*, std::vector<std::uint64_t>*,
                                std::vector<std::vector<double>>*, nlohmann::ordered_json*>;

class FieldVisitor {
 public:
  virtual ~FieldVisitor() = default;

  /// One field. `rules` take the value and return what is wrong with it, or nothing. Returns whether the field was set.
  template <typename Value, typename... Rules>
  bool operator()(const Field& field, Value& value, const Rules&... rules) {
    const bool is_set = visit(field, FieldValue(&value));
    (check(field, rules(value)), ...);
    return is_set;
  }

  /// An enumeration (0, 1, …) that is written as one of `names`.
  template <typename Enum>
  bool choice(const Field& field, const std::vector<std::string>& names, Enum& value) {
    std::string name = names.at(static_cast<std::size_t>(value));
    const bool is_set = choice(field, names, name);
    const auto found = std::find(names.begin(), names.end(), name);
    value = found == names.end() ? value : static_cast<Enum>(found - names.begin());
    return is_set;
  }
  /// A text that is one of `names`.
  bool choice(const Field& field, const std::vector<std::string>& names, std::string& value);

  /// An object of more fields.
  virtual void section(const Field& field, const std::function<void(FieldVisitor&)>& inner) = 0;

 protected:
  virtual bool visit(const Field& field, FieldValue value) = 0;
  virtual void check(const Field&, const std::string& /*problem, or empty*/) {}
};

// Rules.

template <typename Bound>
auto at_least(Bound least) {
  return [least](auto value) {
    return value >= static_cast<decltype(value)>(least)  // false also for NaN
               ? std::string()
               : detail::concat("expected at least ", least, ", found ", value);
  };
}

template <typename Bound>
auto at_most(Bound most) {
  return [most](auto value) {
    return value > static_cast<decltype(value)>(most) ? detail::concat("expected at most ", most, ", found ", value)
                                                      : std::string();
  };
}

/// 0 or more and below 1.
std::string fraction(double value);
std::string above_zero(double value);

template <typename Value>
std::string distinct(const std::vector<Value>& values) {
  std::vector<Value> sorted = values;
  std::sort(sorted.begin(), sorted.end());
  return std::adjacent_find(sorted.begin(), sorted.end()) == sorted.end() ? "" : "a value is listed twice";
}

}  // namespace moelora::io
