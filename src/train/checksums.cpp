#include "train/checksums.h"

#include <algorithm>
#include <sstream>
#include <vector>

#include "moelora/io/atomic_file.h"
#include "moelora/io/error.h"
#include "moelora/io/json_file.h"
#include "moelora/io/sha256.h"

namespace moelora::train {
namespace {

constexpr std::size_t kHexDigits = 64;

}  // namespace

void write_checksums(const std::filesystem::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder)) {
    if (entry.is_regular_file() && entry.path().filename() != kChecksumsFile) {
      names.push_back(entry.path().lexically_relative(folder).generic_string());
    }
  }
  std::sort(names.begin(), names.end());
  std::string text;
  for (const std::string& name : names) {
    text += io::sha256_of_file(folder / name) + "  " + name + "\n";
  }
  io::write_file_atomically(folder / kChecksumsFile, text);
}

void verify_checksums(const std::filesystem::path& folder, const std::string& required) {
  const std::string text = io::read_text_file(folder / kChecksumsFile);
  MOELORA_CHECK(text.ends_with('\n'), kChecksumsFile, " is damaged: its end is missing");
  bool found_required = false;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    const bool well_formed = line.size() > kHexDigits + 2 && line.compare(kHexDigits, 2, "  ") == 0 &&
                             line.find_first_not_of("0123456789abcdef") == kHexDigits;
    MOELORA_CHECK(well_formed, kChecksumsFile, " is damaged: expected a checksum and a file's name in each line");
    const std::string name = line.substr(kHexDigits + 2);
    std::error_code failure;
    MOELORA_CHECK(std::filesystem::is_regular_file(folder / name, failure), name, " is missing");
    const std::string sum = io::sha256_of_file(folder / name);
    MOELORA_CHECK(line.compare(0, kHexDigits, sum) == 0, name, " is damaged: expected SHA-256 ",
                  line.substr(0, kHexDigits), ", found ", sum);
    found_required |= name == required;
  }
  MOELORA_CHECK(found_required, kChecksumsFile, " is damaged: it does not list ", required);
}

}  // namespace moelora::train
