#pragma once
// One writer for a folder: a second process that would write into it is refused by name instead of mixing its files
// with those of the first.

#include <filesystem>
#include <string>
#include <string_view>

namespace moelora::io {

/// Holds FOLDER/.lock for as long as it lives. The system takes the lock away from a process that ends, however it
/// ends, so a file that a killed program left behind locks nothing.
class FolderLock {
 public:
  /// The lock file's name inside a folder; whoever asks whether a folder is empty passes over it.
  static constexpr std::string_view kFileName = ".lock";

  /// Creates the folder if it is missing. `user` is what others are told, e.g. "moelora train".
  /// Error: the folder cannot be made or written to, or another process holds it (named with its process number).
  FolderLock(const std::filesystem::path& folder, std::string_view user);
  ~FolderLock();  ///< Removes the lock file, and the folder if this made it and nothing was put into it.
  FolderLock(FolderLock&& other) noexcept;
  FolderLock& operator=(FolderLock&&) = delete;
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;

 private:
  std::filesystem::path folder_;
  bool made_folder_ = false;
  int descriptor_ = -1;
};

/// Whether a folder is missing or holds nothing but a lock file.
bool is_empty_folder(const std::filesystem::path& folder);

}  // namespace moelora::io
