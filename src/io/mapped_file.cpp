#include "io/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "moelora/io/error.h"
#include "moelora/io/file_kind.h"

namespace moelora::io {

std::shared_ptr<const MappedFile> MappedFile::open(const std::filesystem::path& path) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  MOELORA_CHECK(descriptor >= 0, "cannot read ", path.string(), ": ", std::strerror(errno));
  struct stat status {};
  const bool known = ::fstat(descriptor, &status) == 0;
  const bool regular = known && S_ISREG(status.st_mode);
  const auto size = regular ? static_cast<std::size_t>(status.st_size) : 0;
  void* address = MAP_FAILED;
  int cause = 0;
  if (size > 0) {
    address = ::mmap(nullptr, size, PROT_READ, MAP_SHARED, descriptor, 0);
    cause = errno;
  }
  ::close(descriptor);
  MOELORA_CHECK(regular, "cannot read ", path.string(), ": expected a file, found a folder or device");
  MOELORA_CHECK(size > 0, path.string(), " is empty; copy or download it again");
  MOELORA_CHECK(address != MAP_FAILED, "cannot map ", path.string(), ": ", std::strerror(cause));
  std::shared_ptr<const MappedFile> file(new MappedFile(path, address, size));
  check_no_lfs_pointer({static_cast<const char*>(address), std::min<std::size_t>(size, 64)}, path);
  return file;
}

void MappedFile::release(const void* bytes, std::size_t size) {
  // Whole pages, also those that the range only touches: a neighbour that still needs one gets it from the cache.
  static const auto page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto begin = reinterpret_cast<std::uintptr_t>(bytes) / page * page;
  const auto end = reinterpret_cast<std::uintptr_t>(bytes) + size;
  if (size > 0) {
    ::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
  }
}

MappedFile::~MappedFile() { ::munmap(address_, size_); }

}  // namespace moelora::io
