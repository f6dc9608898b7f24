#pragma once
// File names made of names that people give (tasks): never a path, never outside of the folder that they are put into.

#include <string>
#include <string_view>

namespace moelora::io {

/// A file name for any name, distinct for distinct names. A short name without special characters stays as it is.
/// Otherwise the bytes that could leave a folder, hide a file or that some file system refuses are written as %XX (also
/// '%' itself, a '.' or '-' at the beginning, a blank at either end and a '.' at the end), and what is longer than 200
/// bytes is cut and ends in "%~" and a hash of the whole name.
std::string file_name_for(std::string_view name);

}  // namespace moelora::io
