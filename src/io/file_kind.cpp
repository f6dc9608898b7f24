#include "moelora/io/file_kind.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <cstdint>
#include <fstream>
#include <utility>

#include "moelora/io/error.h"
#include "moelora/io/utf8.h"

namespace moelora::io {
namespace {

constexpr std::array<std::pair<std::string_view, const char*>, 16> kMagic{{
    {"PK\x03\x04", "a zip archive (as a spreadsheet or a checkpoint of torch.save is)"},
    {"\x1f\x8b", "a gzip archive; unpack it with gunzip"},
    {"BZh", "a bzip2 archive; unpack it with bunzip2"},
    {"\xfd"
     "7zXZ",
     "an xz archive; unpack it with unxz"},
    {"\x28\xb5\x2f\xfd", "a zstd archive; unpack it with unzstd"},
    {"PAR1", "a Parquet file; convert it to JSON lines"},
    {"ARROW1", "an Arrow file; convert it to JSON lines"},
    {"\x89HDF", "an HDF5 file"},
    {"\x93NUMPY", "a NumPy file"},
    {"\x80\x02", "a Python pickle"},
    {"\x80\x03", "a Python pickle"},
    {"\x80\x04", "a Python pickle"},
    {"\x80\x05", "a Python pickle"},
    {"\xd0\xcf\x11\xe0", "an old Office file"},
    {"GGUF", "a GGUF file"},
    {"%PDF", "a PDF file"},
}};

bool is_safetensors(std::string_view bytes) {
  if (bytes.size() < 10 || bytes[8] != '{') {
    return false;
  }
  std::uint64_t header = 0;
  for (std::size_t i = 8; i-- > 0;) {
    header = header << 8 | static_cast<unsigned char>(bytes[i]);
  }
  return header >= 2 && header < (1u << 30);
}

std::string_view first_line_of(std::string_view bytes) {
  bytes.remove_prefix(std::min(bytes.find_first_not_of(" \t\r\n"), bytes.size()));
  std::string_view line = bytes.substr(0, bytes.find('\n'));
  while (!line.empty() && (line.back() == '\r' || line.back() == ' ')) {
    line.remove_suffix(1);
  }
  return line;
}

/// "key: value" or "key:", as configurations in YAML begin.
bool is_yaml(std::string_view line) {
  const std::size_t colon = line.find(':');
  return line == "---" ||
         (colon != std::string_view::npos && colon > 0 && (colon + 1 == line.size() || line[colon + 1] == ' ') &&
          std::all_of(line.begin(), line.begin() + static_cast<std::ptrdiff_t>(colon),
                      [](unsigned char c) { return std::isalnum(c) != 0 || c == '_' || c == '-' || c == '.'; }));
}

}  // namespace

void check_no_lfs_pointer(std::string_view bytes, const std::filesystem::path& path) {
  for (const std::string_view mark :
       {"version https://git-lfs.github.com/spec/", "version https://hawser.github.com/spec/"}) {
    MOELORA_CHECK(!bytes.starts_with(mark), path.string(),
                  " is a Git LFS pointer, not the file itself; run `git lfs pull` ",
                  "in its repository (or download the file itself)");
  }
}

void check_no_lfs_pointer(const std::filesystem::path& file) {
  char start[64];
  std::ifstream stream(file, std::ios::binary);
  stream.read(start, sizeof start);
  check_no_lfs_pointer({start, static_cast<std::size_t>(stream.gcount())}, file);
}

std::string kind_of_file(std::string_view bytes) {
  for (const auto& [magic, kind] : kMagic) {
    if (bytes.starts_with(magic)) {
      return kind;
    }
  }
  if (is_safetensors(bytes)) {
    return "a safetensors file";
  }
  if (bytes.starts_with("\xef\xbb\xbf")) {
    bytes.remove_prefix(3);
  }
  const std::string_view line = first_line_of(bytes);
  if (line.empty() || std::string_view("{[/").find(line[0]) != std::string_view::npos ||
      line.find('\0') != std::string_view::npos) {
    return {};
  }
  if (line[0] == '<') {
    return "an HTML or XML page, as a failed download leaves one";
  }
  if (is_yaml(line)) {
    return "a YAML file";
  }
  for (const auto& [separator, kind] : {std::pair{'\t', "a file of columns divided by tabs"},
                                        std::pair{',', "a CSV file"}, std::pair{';', "a CSV file"}}) {
    if (line.find(separator) != std::string_view::npos) {
      return std::string(kind) + " (its first line: " + shortened(line, 80) + ")";
    }
  }
  return {};
}

}  // namespace moelora::io
