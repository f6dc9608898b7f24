#pragma once
// Numbers, times and lists as people read them.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace moelora::io {

std::string fixed(double value, int decimals);      ///< 0.7238, 2 → "0.72"
std::string significant(double value, int digits);  ///< 0.00003, 3 → "3e-05"
std::string with_commas(std::int64_t count);        ///< "29,360,128"

std::string duration_text(double seconds);     ///< "42s", "12m05s", "1h01m": for a line that is rewritten
std::string rounded_duration(double seconds);  ///< "42 s", "12.1 min", "3.4 h": for a table

/// "a, b, c".
std::string joined(const std::vector<std::string>& texts, std::string_view separator = ", ");

}  // namespace moelora::io
