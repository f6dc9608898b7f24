#pragma once
// JSON files: reading with errors that name file, line and column; writing atomically.

#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <string>

namespace moelora::io {

std::string read_text_file(const std::filesystem::path& path);  ///< Error if absent or unreadable.

/// Parses a JSON file. Lines whose first characters are `//` are comments (configurations open with their command).
nlohmann::ordered_json read_json_file(const std::filesystem::path& path);

/// Two-space indentation, UTF-8 as it is, a final newline.
void write_json_file(const std::filesystem::path& path, const nlohmann::ordered_json& value);

}  // namespace moelora::io
