#pragma once
// The values of a text of records, whichever way they are written: JSON lines, arrays, objects over several lines, one
// after another in any mixture.

#include <cstddef>
#include <functional>
#include <string>
#include <string_view>

#include "moelora/data/json_scanner.h"

namespace moelora::data {

/// "LINE:COLUMN" of places in a text, both counted from 1, columns in characters. Quick if asked in their order.
class TextPlaces {
 public:
  explicit TextPlaces(std::string_view text) : text_(text) {}
  std::size_t line(std::size_t at) const;
  std::string place(std::size_t at) const;

 private:
  std::string_view text_;
  mutable std::size_t counted_ = 0;  // up to here, with
  mutable std::size_t lines_ = 0;    // so many ends of lines
};

struct RecordTextVisitor {
  std::function<void(std::size_t begin, const JsonExtent&)> value;  ///< one whole JSON value
  std::function<void(const JsonFault&)> fault;  ///< one piece that is none; reading goes on behind it
};

/// Visits everything in the text, in order. A value that breaks off is left at its own closing bracket, or at the next
/// line that begins another one. Error naming `label`, line and column: an array that never ends, or something else
/// than an array or an object behind an array's last bracket.
void visit_record_text(std::string_view text, const std::string& label, const TextPlaces& places,
                       const RecordTextVisitor& visitor);

}  // namespace moelora::data
