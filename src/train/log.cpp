#include "moelora/train/log.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>
#include <utility>

#include "moelora/io/error.h"
#include "moelora/log/log.h"

namespace moelora::train {

RunLog::RunLog(std::filesystem::path path, std::int64_t length) : path_(std::move(path)) {
  std::error_code failure;
  std::filesystem::create_directories(path_.parent_path(), failure);
  descriptor_ = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
  MOELORA_CHECK(descriptor_ >= 0, "cannot write ", path_.string(), ": ", std::strerror(errno));
  const off_t found = ::lseek(descriptor_, 0, SEEK_END);
  if (found < length) {
    log::warning(path_.string() + " is shorter than the checkpoint recorded; earlier lines are missing from it");
  }
  length_ = std::min<std::int64_t>(found, length);
  MOELORA_CHECK(::ftruncate(descriptor_, length_) == 0 && ::lseek(descriptor_, length_, SEEK_SET) == length_,
                "cannot write ", path_.string(), ": ", std::strerror(errno));
}

RunLog::~RunLog() { ::close(descriptor_); }

void RunLog::write(const nlohmann::ordered_json& entry) {
  const std::string line = entry.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
  std::size_t done = 0;
  while (done < line.size()) {
    const ssize_t written = ::write(descriptor_, line.data() + done, line.size() - done);
    if (written < 0 && errno == EINTR) {
      continue;
    }
    MOELORA_CHECK(written > 0, "cannot write ", path_.string(), ": ", std::strerror(written < 0 ? errno : ENOSPC),
                  "; free space and resume the run");
    done += static_cast<std::size_t>(written);
  }
  length_ += static_cast<std::int64_t>(line.size());
}

void RunLog::sync() { ::fdatasync(descriptor_); }

}  // namespace moelora::train
