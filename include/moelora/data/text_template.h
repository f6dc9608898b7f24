#pragma once
// Texts with the fields of a record in them, such as "{instruction}\n{input?}".
//
//   {name}     the value of the field; a record without it is an error
//   {name?}    the value, or nothing where the record has no such field, or null
//   {a.b}      a field of the object a (or the field "a.b", if there is one); {a.0}: the first entry of the list a
//   {{ and }}  braces
//
// A line of the template that has fields, all of them empty, is left out with its line end: "{instruction}\n{input}"
// with an empty input is the instruction alone. Where every field of the template is empty, so is the text.

#include <cstddef>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace moelora::data {

class TextTemplate {
 public:
  struct Field {
    std::string name;
    bool optional = false;
    bool operator==(const Field&) const = default;
  };

  TextTemplate() = default;  ///< Empty.
  /// Error naming the place: a brace that is never closed, or closes nothing, or encloses nothing.
  explicit TextTemplate(std::string_view text);

  const std::string& text() const { return text_; }
  std::vector<Field> fields() const;  ///< In order, each once.

  using Value = std::function<std::string(const Field&)>;
  std::string fill(const Value& value) const;

 private:
  struct Piece {
    std::string text;  ///< Of the template itself; in front of the field, if there is one.
    Field field;       ///< Its name is empty: none.
  };
  using Line = std::vector<Piece>;

  std::string text_;
  std::vector<Line> lines_;
};

}  // namespace moelora::data
