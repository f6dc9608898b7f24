#pragma once
// Where tests find data: fixtures that ship with the repository, and shared material that may be absent.

#include <cstdlib>
#include <filesystem>
#include <string>

namespace moelora::testing {

inline std::filesystem::path fixtures() { return MOELORA_TEST_FIXTURES; }

/// Folder of the material that must not be committed (real records). It may be absent: tests then skip and say so.
inline std::filesystem::path shared() {
  const char* set = std::getenv("MOELORA_SHARED_DIR");
  return set != nullptr ? std::filesystem::path(set) : std::filesystem::path(MOELORA_SOURCE_DIR) / ".." / "shared";
}

/// A fresh folder for one test, removed at the end.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "moelora-test-XXXXXX").string();
    path_ = mkdtemp(pattern.data());
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

}  // namespace moelora::testing
