#include "moelora/io/fields.h"

#include "moelora/io/readable.h"

namespace moelora::io {

bool FieldVisitor::choice(const Field& field, const std::vector<std::string>& names, std::string& value) {
  return (*this)(field, value, [&](const std::string& name) {
    if (std::find(names.begin(), names.end(), name) != names.end()) {
      return std::string();
    }
    return "expected one of " + joined(names) + ", found \"" + name + "\"";
  });
}

std::string fraction(double value) {
  return value >= 0.0 && value < 1.0 ? "" : detail::concat("expected 0 or more and below 1, found ", value);
}

std::string above_zero(double value) {
  return value > 0.0 ? "" : detail::concat("expected more than 0, found ", value);
}

}  // namespace moelora::io
