#pragma once
// What a file is that turns out to be another one than expected, told by how it begins.

#include <filesystem>
#include <string>
#include <string_view>

namespace moelora::io {

/// Error if the bytes (a file's beginning, or all of it) are a Git LFS pointer: the few lines that a clone without Git
/// LFS has in the place of a large file. Every reader asks this before it looks at the bytes otherwise.
void check_no_lfs_pointer(std::string_view bytes, const std::filesystem::path& path);
void check_no_lfs_pointer(const std::filesystem::path& file);  ///< Says nothing of a file that can't be read.

/// "a CSV file (first line: …)", "a gzip archive", …; empty for JSON and for anything that isn't recognised.
std::string kind_of_file(std::string_view bytes);

}  // namespace moelora::io
