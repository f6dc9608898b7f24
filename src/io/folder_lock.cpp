#include "moelora/io/folder_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "moelora/io/error.h"

namespace moelora::io {
namespace {

namespace fs = std::filesystem;

std::string host_name() {
  char name[256] = "";
  ::gethostname(name, sizeof name - 1);
  return name;
}

std::string content_of(int descriptor) {
  char text[512];
  const ssize_t size = ::pread(descriptor, text, sizeof text, 0);
  return size > 0 ? std::string(text, static_cast<std::size_t>(size)) : std::string("another process");
}

/// Whether the file behind the descriptor is still the one with this name: its last holder may have removed it between
/// opening and locking.
bool is_file_at(int descriptor, const fs::path& path) {
  struct stat held {};
  struct stat named {};
  return ::fstat(descriptor, &held) == 0 && ::stat(path.c_str(), &named) == 0 && held.st_ino == named.st_ino &&
         held.st_dev == named.st_dev;
}

}  // namespace

FolderLock::FolderLock(const fs::path& folder, std::string_view user) : folder_(folder) {
  std::error_code failure;
  made_folder_ = fs::create_directories(folder, failure);
  MOELORA_CHECK(fs::is_directory(folder), "cannot create the folder ", folder.string(), ": ",
                failure ? failure.message() : std::string("a file has that name"), "; choose another place");
  const fs::path path = folder / kFileName;
  for (;;) {
    descriptor_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    MOELORA_CHECK(descriptor_ >= 0, "cannot write into ", folder.string(), ": ", std::strerror(errno),
                  "; choose another place");
    if (::flock(descriptor_, LOCK_EX | LOCK_NB) != 0) {
      const int cause = errno;
      const std::string holder = content_of(descriptor_);
      ::close(std::exchange(descriptor_, -1));
      if (cause == EWOULDBLOCK) {
        throw Error(detail::concat(folder.string(), " is in use by ", holder,
                                   "; wait until that process has ended, or choose another folder"));
      }
      throw Error(detail::concat("cannot lock ", path.string(), ": ", std::strerror(cause)));
    }
    if (is_file_at(descriptor_, path)) {
      break;
    }
    ::close(std::exchange(descriptor_, -1));
  }
  const std::string text = detail::concat(user, " (process ", ::getpid(), " on ", host_name(), ")");
  // Best effort: the text only tells others who holds the folder; on a full disk the lock holds all the same.
  [[maybe_unused]] const bool told =
      ::ftruncate(descriptor_, 0) == 0 && ::pwrite(descriptor_, text.data(), text.size(), 0) > 0;
}

FolderLock::FolderLock(FolderLock&& other) noexcept
    : folder_(std::move(other.folder_)),
      made_folder_(std::exchange(other.made_folder_, false)),
      descriptor_(std::exchange(other.descriptor_, -1)) {}

FolderLock::~FolderLock() {
  if (descriptor_ < 0) {
    return;
  }
  // Removed while it is still held, so that nobody's newer file is. A folder that was replaced meanwhile has none.
  if (is_file_at(descriptor_, folder_ / kFileName)) {
    ::unlink((folder_ / kFileName).c_str());
  }
  ::close(descriptor_);
  if (made_folder_) {
    ::rmdir(folder_.c_str());  // fails, as it should, unless the folder is empty
  }
}

bool is_empty_folder(const fs::path& folder) {
  std::error_code failure;
  if (!fs::exists(folder, failure)) {
    return true;
  }
  if (!fs::is_directory(folder, failure)) {
    return false;
  }
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (entry.path().filename() != FolderLock::kFileName) {
      return false;
    }
  }
  return true;
}

}  // namespace moelora::io
