#pragma once
// Files and folders that appear whole or not at all: written beside their place under a temporary name, synced to the
// disk, then renamed. A crash, a kill or a full disk leaves what was there before untouched.

#include <cstddef>
#include <filesystem>
#include <string>
#include <string_view>

namespace moelora::io {

/// A file under construction. Destroyed without commit(), it leaves no trace.
class AtomicFile {
 public:
  explicit AtomicFile(std::filesystem::path path);  ///< Creates missing parent folders.
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void write(const void* data, std::size_t size);  ///< Error naming the path and the cause (disk full, no permission).
  void write(std::string_view text) { write(text.data(), text.size()); }
  void commit();  ///< Sync, then rename into place.

 private:
  std::filesystem::path path_;
  std::filesystem::path temporary_;
  int descriptor_ = -1;
};

/// A folder under construction: fill path(), then commit(). An existing target is replaced only at commit.
class AtomicFolder {
 public:
  explicit AtomicFolder(std::filesystem::path target);
  ~AtomicFolder();
  AtomicFolder(const AtomicFolder&) = delete;
  AtomicFolder& operator=(const AtomicFolder&) = delete;

  const std::filesystem::path& path() const { return temporary_; }
  void commit();

 private:
  std::filesystem::path target_;
  std::filesystem::path temporary_;
  bool committed_ = false;
};

void write_file_atomically(const std::filesystem::path& path, std::string_view bytes);

}  // namespace moelora::io
