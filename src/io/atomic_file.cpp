#include "moelora/io/atomic_file.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <charconv>
#include <cstring>

#include "moelora/io/error.h"

namespace moelora::io {
namespace {

namespace fs = std::filesystem;

[[noreturn]] void fail_to_write(const fs::path& path, int cause) {
  throw Error(detail::concat("cannot write ", path.string(), ": ", std::strerror(cause),
                             "; free space or choose another place; nothing was overwritten"));
}

std::string temporary_suffix() {
  static std::atomic<unsigned> counter{0};
  return detail::concat(".tmp-", ::getpid(), "-", counter++);
}

// What a killed program left behind: names made by temporary_suffix() for this target whose process is gone.
void remove_abandoned(const fs::path& target) {
  std::error_code ignored;
  const std::string prefix = target.filename().string() + ".tmp-";
  for (fs::directory_iterator entry(target.parent_path(), ignored), end; !ignored && entry != end;
       entry.increment(ignored)) {
    const std::string name = entry->path().filename().string();
    int process = 0;
    if (!name.starts_with(prefix)) {
      continue;
    }
    const auto [rest, failure] = std::from_chars(name.data() + prefix.size(), name.data() + name.size(), process);
    if (failure == std::errc() && *rest == '-' && process > 0 && ::kill(process, 0) != 0 && errno == ESRCH) {
      std::error_code unimportant;
      fs::remove_all(entry->path(), unimportant);
    }
  }
}

// Absolute, without a trailing slash, and behind a link: the link stays and its target is replaced.
fs::path resolved_target(const fs::path& given) {
  MOELORA_CHECK(!given.empty(), "cannot write to an empty path; name a file or folder");
  std::error_code failure;
  fs::path path = fs::absolute(given, failure).lexically_normal();
  if (!path.has_filename()) {
    path = path.parent_path();
  }
  MOELORA_CHECK(path.has_filename(), "cannot replace ", given.string(), "; name a file or folder inside it");
  for (int links = 0; links < 40 && fs::is_symlink(path, failure); ++links) {
    const fs::path next = fs::read_symlink(path, failure);
    if (failure) {
      break;
    }
    path = (path.parent_path() / next).lexically_normal();
  }
  return path;
}

void create_parent_of(const fs::path& path) {
  std::error_code failure;
  fs::create_directories(path.parent_path(), failure);
  if (failure && !fs::is_directory(path.parent_path())) {
    throw Error(detail::concat("cannot create the folder ", path.parent_path().string(), ": ", failure.message()));
  }
}

bool unsupported_by_filesystem(int cause) {
  return cause == EINVAL || cause == ENOSYS || cause == ENOTSUP || cause == EROFS;
}

// Some file systems cannot sync folders; the data itself is safe by then, so that is no error.
void sync_path(const fs::path& path, bool is_folder, const fs::path& target) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | (is_folder ? O_DIRECTORY : 0));
  if (descriptor < 0) {
    return;
  }
  const int cause = ::fsync(descriptor) == 0 ? 0 : errno;
  ::close(descriptor);
  if (cause != 0 && !unsupported_by_filesystem(cause)) {
    fail_to_write(target, cause);
  }
}

void sync_everything_below(const fs::path& folder, const fs::path& target) {
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    if (entry.is_symlink()) {
      continue;
    }
    if (entry.is_directory() || entry.is_regular_file()) {
      sync_path(entry.path(), entry.is_directory(), target);
    }
  }
  sync_path(folder, true, target);
}

// Where two names cannot be swapped in one go, the old folder steps aside and comes back if the rename fails.
void replace_in_two_steps(const fs::path& temporary, const fs::path& target) {
  const fs::path aside = target.string() + temporary_suffix();
  if (::rename(target.c_str(), aside.c_str()) != 0) {
    fail_to_write(target, errno);
  }
  if (::rename(temporary.c_str(), target.c_str()) != 0) {
    const int cause = errno;
    ::rename(aside.c_str(), target.c_str());
    fail_to_write(target, cause);
  }
  std::error_code ignored;
  fs::remove_all(aside, ignored);
}

}  // namespace

AtomicFile::AtomicFile(fs::path path) : path_(resolved_target(path)) {
  create_parent_of(path_);
  struct stat status {};
  const bool exists = ::stat(path_.c_str(), &status) == 0;
  MOELORA_CHECK(!exists || !S_ISDIR(status.st_mode), "cannot write ", path_.string(),
                ": expected a file, found a folder");
  if (exists && !S_ISREG(status.st_mode)) {  // a pipe or device is written to, never replaced
    descriptor_ = ::open(path_.c_str(), O_WRONLY | O_CLOEXEC);
  } else {
    remove_abandoned(path_);
    do {
      temporary_ = path_.string() + temporary_suffix();
      descriptor_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    } while (descriptor_ < 0 && errno == EEXIST);
  }
  if (descriptor_ < 0) {
    fail_to_write(path_, errno);
  }
  if (exists && !temporary_.empty()) {
    // Best effort: the old permissions are kept where the file system allows it.
    [[maybe_unused]] const int ignored = ::fchmod(descriptor_, status.st_mode & 07777);
  }
}

AtomicFile::~AtomicFile() {
  if (descriptor_ >= 0) {
    ::close(descriptor_);
  }
  if (!temporary_.empty()) {
    ::unlink(temporary_.c_str());
  }
}

void AtomicFile::write(const void* data, std::size_t size) {
  const auto* bytes = static_cast<const char*>(data);
  while (size > 0) {
    const ssize_t written = ::write(descriptor_, bytes, std::min<std::size_t>(size, std::size_t{1} << 30));
    if (written < 0 && errno == EINTR) {
      continue;
    }
    if (written <= 0) {
      fail_to_write(path_, written < 0 ? errno : ENOSPC);
    }
    bytes += written;
    size -= static_cast<std::size_t>(written);
  }
}

void AtomicFile::commit() {
  MOELORA_CHECK(descriptor_ >= 0, "cannot write ", path_.string(), ": it was committed before");
  if (::fsync(descriptor_) != 0 && !unsupported_by_filesystem(errno)) {
    fail_to_write(path_, errno);
  }
  const int closed = ::close(descriptor_);
  descriptor_ = -1;
  if (closed != 0 && errno != EINTR) {
    fail_to_write(path_, errno);
  }
  if (temporary_.empty()) {
    return;
  }
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) {
    fail_to_write(path_, errno);
  }
  temporary_.clear();
  sync_path(path_.parent_path(), true, path_);
}

AtomicFolder::AtomicFolder(fs::path target) : target_(resolved_target(target)) {
  create_parent_of(target_);
  std::error_code failure;
  MOELORA_CHECK(!fs::exists(target_, failure) || fs::is_directory(target_, failure), "cannot write the folder ",
                target_.string(), ": a file has that name; choose another name or remove it");
  remove_abandoned(target_);
  int made = 0;
  do {
    temporary_ = target_.string() + temporary_suffix();
    made = ::mkdir(temporary_.c_str(), 0777);
  } while (made != 0 && errno == EEXIST);
  if (made != 0) {
    const int cause = errno;
    temporary_.clear();
    fail_to_write(target_, cause);
  }
}

AtomicFolder::~AtomicFolder() {
  if (!committed_) {
    std::error_code ignored;
    fs::remove_all(temporary_, ignored);
  }
}

void AtomicFolder::commit() {
  MOELORA_CHECK(!committed_, "cannot write ", target_.string(), ": it was committed before");
  sync_everything_below(temporary_, target_);
  if (::rename(temporary_.c_str(), target_.c_str()) != 0) {  // succeeds if there is no target, or an empty folder
    if (errno != EEXIST && errno != ENOTEMPTY) {
      fail_to_write(target_, errno);
    }
    if (::renameat2(AT_FDCWD, temporary_.c_str(), AT_FDCWD, target_.c_str(), RENAME_EXCHANGE) == 0) {
      std::error_code ignored;
      fs::remove_all(temporary_, ignored);  // by now this name holds the old folder
    } else if (unsupported_by_filesystem(errno)) {
      replace_in_two_steps(temporary_, target_);
    } else {
      fail_to_write(target_, errno);
    }
  }
  committed_ = true;
  sync_path(target_.parent_path(), true, target_);
}

void write_file_atomically(const fs::path& path, std::string_view bytes) {
  AtomicFile file(path);
  file.write(bytes);
  file.commit();
}

}  // namespace moelora::io
