#pragma once
// A file mapped into memory for reading.

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>

namespace moelora::io {

class MappedFile {
 public:
  /// Error if the file is absent, unreadable, not a regular file, empty or a Git LFS pointer.
  static std::shared_ptr<const MappedFile> open(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::uint8_t* data() const { return static_cast<const std::uint8_t*>(address_); }
  std::size_t size() const { return size_; }
  const std::filesystem::path& path() const { return path_; }

  /// These bytes of a mapped file have been read and need not stay in the process's memory (the kernel may keep them
  /// cached). Reading them again is fine.
  static void release(const void* bytes, std::size_t size);

 private:
  MappedFile(std::filesystem::path path, void* address, std::size_t size)
      : path_(std::move(path)), address_(address), size_(size) {}

  std::filesystem::path path_;
  void* address_;  // only read
  std::size_t size_;
};

}  // namespace moelora::io
