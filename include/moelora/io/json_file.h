#pragma once
// JSON files: reading with errors that name file, line and column; writing atomically.

#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <string>

namespace moelora::io {

std::string read_text_file(const std::filesystem::path& path);  ///< Error: absent, unreadable, a Git LFS pointer.

/// Parses a JSON file in UTF-8 or UTF-16. Lines that begin with `//` are comments (configurations open with one).
nlohmann::ordered_json read_json_file(const std::filesystem::path& path);

/// Two-space indentation, UTF-8 as it is, a final newline.
void write_json_file(const std::filesystem::path& path, const nlohmann::ordered_json& value);

}  // namespace moelora::io
