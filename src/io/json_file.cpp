#include "moelora/io/json_file.h"

#include <cerrno>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>

#include "moelora/io/atomic_file.h"
#include "moelora/io/file_kind.h"
#include "moelora/io/json_text.h"
#include "moelora/io/utf8.h"

namespace moelora::io {
namespace {

// Comment lines become blanks of the same length, so that positions in errors stay those of the file.
void blank_comment_lines(std::string& text) {
  std::size_t start = 0;
  while (start < text.size()) {
    std::size_t end = text.find('\n', start);
    end = end == std::string::npos ? text.size() : end;
    const std::size_t first = text.find_first_not_of(" \t", start);
    if (first < end && text.compare(first, 2, "//") == 0) {
      std::fill(text.begin() + static_cast<std::ptrdiff_t>(first), text.begin() + static_cast<std::ptrdiff_t>(end),
                ' ');
    }
    start = end + 1;
  }
}

}  // namespace

std::string line_and_column(std::string_view text, std::size_t offset) {
  const std::string_view before = text.substr(0, std::min(offset, text.size()));
  const auto line = 1 + std::count(before.begin(), before.end(), '\n');
  const std::size_t newline = before.rfind('\n');
  const std::size_t start = newline == std::string_view::npos ? 0 : newline + 1;
  return detail::concat(line, ":", count_characters(before.substr(start)) + 1);
}

void check_json_structure(std::string_view text, const std::string& label) {
  constexpr int kDeepest = 200;
  int depth = 0;
  bool in_string = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      i += c == '\\';
      in_string = c != '"';
    } else if (c == '"') {
      in_string = true;
    } else if (c == '[' || c == '{') {
      MOELORA_CHECK(++depth <= kDeepest, label, ":", line_and_column(text, i), ": brackets nest deeper than ",
                    kDeepest);
    } else if (c == ']' || c == '}') {
      --depth;
    }
    // nlohmann takes a zero byte for the end of the text.
    MOELORA_CHECK(c != '\0', label, ":", line_and_column(text, i), ": found a zero byte; is this a text file?");
  }
}

std::string excerpt(std::string_view text) {
  constexpr std::size_t kLongest = 200;
  return text.size() <= kLongest ? std::string(text) : std::string(text.substr(0, kLongest)) + "…";
}

std::string plain_json_message(const std::string& message) {
  // "[json.exception.parse_error.101] parse error at line 3, column 14: syntax error …"
  const std::size_t bracket = message.find("] ");
  const std::size_t body = bracket == std::string::npos ? 0 : bracket + 2;
  const bool positioned = message.compare(body, 15, "parse error at ") == 0;
  const std::size_t colon = positioned ? message.find(": ", body) : std::string::npos;
  return excerpt(std::string_view(message).substr(colon == std::string::npos ? body : colon + 2));
}

std::string read_text_file(const std::filesystem::path& path) {
  errno = 0;
  std::error_code unknown;
  MOELORA_CHECK(!std::filesystem::is_directory(path, unknown), "cannot read ", path.string(),
                ": expected a file, found a folder");
  std::ifstream stream(path, std::ios::binary);
  MOELORA_CHECK(stream.is_open(), "cannot read ", path.string(), ": ", std::strerror(errno));
  std::ostringstream text;
  // Inserting an empty buffer sets the failure bit of `text`; only the stream's own state tells of trouble.
  text << stream.rdbuf();
  MOELORA_CHECK(!stream.bad(), "cannot read ", path.string(), ": ", std::strerror(errno));
  std::string bytes = std::move(text).str();
  check_no_lfs_pointer(bytes, path);
  return bytes;
}

nlohmann::ordered_json read_json_file(const std::filesystem::path& path) {
  std::string text = to_utf8(read_text_file(path), path.string());
  blank_comment_lines(text);
  try {
    return parse_json_text<nlohmann::ordered_json>(text, path.string());
  } catch (const Error& error) {
    const std::string kind = kind_of_file(text);
    throw Error(error.what() + (kind.empty() ? "" : "; expected JSON, found " + kind));
  }
}

void write_json_file(const std::filesystem::path& path, const nlohmann::ordered_json& value) {
  std::string text;
  try {
    text = value.dump(2, ' ', false) + "\n";
  } catch (const nlohmann::ordered_json::exception& error) {
    throw Error(detail::concat("cannot write ", path.string(), ": ", plain_json_message(error.what())));
  }
  write_file_atomically(path, text);
}

}  // namespace moelora::io
