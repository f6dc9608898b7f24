#pragma once
// What the program says of an error that is none of its own: in its words, not in a library's.

#include <exception>
#include <string>

namespace moelora::cli {

std::string error_text(const std::exception& error);

/// An error of the command line's parser: expected beside found, without the parser's tables and types.
std::string command_line_text(const std::string& message);

}  // namespace moelora::cli
