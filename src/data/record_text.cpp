#include "data/record_text.h"

#include <algorithm>
#include <optional>

#include "moelora/io/error.h"
#include "moelora/io/utf8.h"

namespace moelora::data {
namespace {

constexpr std::string_view kBlanks = " \t\r\n";

/// Walks through a text once; see visit_record_text.
class RecordTextWalk {
 public:
  RecordTextWalk(std::string_view text, const std::string& label, const TextPlaces& places,
                 const RecordTextVisitor& visitor)
      : text_(text), label_(label), places_(places), visitor_(visitor) {}

  void run() {
    std::optional<std::size_t> array_end;  // the last bracket, while nothing but blanks came behind it
    for (skip_blanks(); !ended(); skip_blanks()) {
      if (text_[at_] == '[') {
        read_array();
        array_end = at_ - 1;
      } else if (text_[at_] == '{') {
        read_value();
        array_end.reset();
      } else {
        const std::string found = io::shortened(text_.substr(at_, text_.find('\n', at_) - at_), 40);
        MOELORA_CHECK(!array_end, label_, ":", places_.place(at_), ": expected the end of the file, another array or ",
                      "another record behind the array that ends at ", places_.place(array_end.value_or(0)),
                      ", found \"", found, "\"; remove it, or mend the array");
        visitor_.fault({at_, "expected a record in { } or records in [ ], found \"" + found + "\""});
        at_ = std::min(text_.find('\n', at_), text_.size());
      }
    }
  }

 private:
  bool ended() const { return at_ >= text_.size(); }
  void skip_blanks() { at_ = std::min(text_.find_first_not_of(kBlanks, at_), text_.size()); }

  void read_array() {
    const std::size_t begin = at_++;
    bool expects_value = true;  // false behind a value, until a comma
    while (true) {
      skip_blanks();
      MOELORA_CHECK(!ended(), label_, ":", places_.place(begin), ": the JSON array that begins here is cut off: no ",
                    "closing bracket up to the end of the file; get the whole file");
      const char c = text_[at_];
      if (c == ']') {
        ++at_;
        return;
      }
      if (c == ',') {
        if (expects_value) {
          visitor_.fault({at_, "expected a record, found ','"});
        }
        expects_value = true;
        ++at_;
        continue;
      }
      const bool opens = c == '{' || c == '[';
      if (!expects_value && !opens) {
        visitor_.fault(
            {at_, "expected ',' or ']' behind a record, found '" + io::shortened(text_.substr(at_, 4), 1) + "'"});
        at_ = std::min(text_.find_first_of(",]\n", at_), text_.size());
        continue;
      }
      expects_value = !read_value();
      if (expects_value) {  // what is left of a broken one
        at_ = std::min(text_.find_first_of(",]{\n", at_), text_.size());
        expects_value = false;
      }
    }
  }

  /// The value that begins here; false if it is none (then somewhere behind it).
  bool read_value() {
    const std::size_t begin = at_;
    try {
      const JsonExtent extent = scan_json(text_, begin);
      at_ = extent.end;
      visitor_.value(begin, extent);
      return true;
    } catch (const JsonFault& fault) {
      at_ = next_begin(begin, fault.at);
      visitor_.fault(fault_before(begin, fault));
      return false;
    }
  }

  /// Where reading goes on behind a broken value: its closing bracket as far as brackets can be told, but never behind
  /// the next line that begins like the line that the value stands in.
  std::size_t next_begin(std::size_t begin, std::size_t fault) const {
    const std::size_t line = begin == 0 ? 0 : text_.rfind('\n', begin - 1) + 1;  // npos + 1 is 0
    const std::size_t indentation = text_.find_first_not_of(" \t", line) - line;
    std::string open;  // brackets
    bool in_string = false;
    for (std::size_t at = begin; at < text_.size(); ++at) {
      const char c = text_[at];
      if (c == '\n') {
        in_string = false;  // no string goes on in the next line
        const std::size_t first = std::min(text_.find_first_not_of(" \t", at + 1), text_.size());
        const bool opens = first < text_.size() && (text_[first] == '{' || (text_[first] == '[' && first == at + 1));
        if (opens && first - at - 1 <= indentation) {
          return first;
        }
      } else if (in_string) {
        at += c == '\\' ? 1 : 0;
        in_string = c != '"';
      } else if (c == '"') {
        in_string = true;
      } else if (c == '{' || c == '[') {
        open.push_back(c);
      } else if (c == '}' || c == ']') {
        const std::size_t opened = open.rfind(c == '}' ? '{' : '[');
        if (opened == std::string::npos) {
          if (at >= fault && c == ']') {
            return at;  // the bracket of the array around
          }
          continue;
        }
        open.resize(opened);
        if (open.empty() && at >= fault) {
          return at + 1;
        }
      }
    }
    return text_.size();
  }

  /// The fault as it shows when the text ends where reading goes on: a record that is cut off ends in its own line.
  JsonFault fault_before(std::size_t begin, const JsonFault& fault) const {
    if (fault.at < at_) {
      return fault;
    }
    const std::size_t last = text_.find_last_not_of(kBlanks, at_ - 1);
    try {
      scan_json(text_.substr(0, last + 1), begin);
    } catch (const JsonFault& clipped) {
      return clipped;
    }
    return fault;
  }

  std::string_view text_;
  const std::string& label_;
  const TextPlaces& places_;
  const RecordTextVisitor& visitor_;
  std::size_t at_ = 0;
};

}  // namespace

std::size_t TextPlaces::line(std::size_t at) const {
  if (at < counted_) {
    counted_ = lines_ = 0;
  }
  lines_ += static_cast<std::size_t>(std::count(text_.begin() + static_cast<std::ptrdiff_t>(counted_),
                                                text_.begin() + static_cast<std::ptrdiff_t>(at), '\n'));
  counted_ = at;
  return lines_ + 1;
}

std::string TextPlaces::place(std::size_t at) const {
  const std::size_t start = at == 0 ? 0 : text_.rfind('\n', at - 1) + 1;  // npos + 1 is 0
  return detail::concat(line(at), ":", io::count_characters(text_.substr(start, at - start)) + 1);
}

void visit_record_text(std::string_view text, const std::string& label, const TextPlaces& places,
                       const RecordTextVisitor& visitor) {
  RecordTextWalk(text, label, places, visitor).run();
}

}  // namespace moelora::data
