#include "moelora/data/answer_file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>
#include <string_view>

#include "moelora/io/error.h"
#include "moelora/io/json_file.h"

namespace moelora::data {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

using namespace std::string_literals;

constexpr const char* kIdentityKey = "answers_of";
constexpr std::string_view kOpening = "{\"answers_of\":";

struct StoredAnswers {
  ordered_json identity;
  std::vector<Answer> answers;
  std::size_t size = 0;  // bytes of the whole lines
};

// Whole lines only: what follows the last line end was cut off while it was written.
StoredAnswers parse_answers(const std::string& text, const fs::path& path) {
  StoredAnswers stored;
  std::size_t number = 0;
  for (std::size_t end; (end = text.find('\n', stored.size)) != std::string::npos; stored.size = end + 1) {
    ++number;
    try {
      const auto line = ordered_json::parse(text.substr(stored.size, end - stored.size));
      if (number == 1) {
        stored.identity = line.at(kIdentityKey);
      } else {
        stored.answers.push_back(answer_from_json(line));
      }
    } catch (const ordered_json::exception&) {
      throw Error(detail::concat(path.string(), ":", number,
                                 number == 1 ? ": expected what its answers belong to" : ": expected an answer",
                                 ", found something else; the file is damaged or another program's: move it away"));
    }
  }
  // Never taken for empty, and overwritten: a file that is not ours.
  const std::string_view rest = std::string_view(text).substr(stored.size);
  MOELORA_CHECK(number > 0 || rest.find_first_not_of(" \0"s) == std::string_view::npos || rest.starts_with(kOpening) ||
                    kOpening.starts_with(rest),
                path.string(), ": expected answers of a run that was broken off, found another file; move it away");
  return stored;
}

void check_identity(const ordered_json& then, const ordered_json& now, const fs::path& path) {
  std::string changes;
  ordered_json keys = then;
  keys.update(now);
  for (const auto& [key, ignored] : keys.items()) {
    const ordered_json before = then.value(key, ordered_json());
    const ordered_json after = now.value(key, ordered_json());
    if (before != after) {
      changes += "\n  " + key + ": " + before.dump() + ", now " + after.dump();
    }
  }
  MOELORA_CHECK(changes.empty(), path.string(), " holds answers that were made otherwise:", changes,
                "\ntake the changes back, or remove the file to begin anew");
}

[[noreturn]] void fail_to_open(const fs::path& path, int cause) {
  throw Error(detail::concat("cannot write ", path.string(), ": ", std::strerror(cause),
                             "; choose another --output; nothing was answered"));
}

}  // namespace

ordered_json to_json(const Answer& answer) {
  return {{"record", answer.record}, {"answer", answer.text}, {"tokens", answer.tokens}, {"finished", answer.finished}};
}

Answer answer_from_json(const ordered_json& json) {
  return {json.at("record").get<std::int64_t>(), json.at("answer").get<std::string>(),
          json.at("tokens").get<std::int64_t>(), json.at("finished").get<bool>()};
}

AnswerFile::AnswerFile(fs::path path, bool resume) : path_(std::move(path)) {
  std::error_code failure;
  if (!path_.parent_path().empty()) {
    fs::create_directories(path_.parent_path(), failure);
  }
  descriptor_ = ::open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
  if (descriptor_ < 0) {
    fail_to_open(path_, errno);
  }
  if (::flock(descriptor_, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
    ::close(descriptor_);
    throw Error(path_.string() + ": another process writes its answers there; wait for it, or choose another --output");
  }
  try {
    struct stat status {};
    MOELORA_CHECK(::fstat(descriptor_, &status) == 0 && S_ISREG(status.st_mode), path_.string(),
                  ": expected a plain file for the answers; choose another --output");
    const StoredAnswers stored = parse_answers(io::read_text_file(path_), path_);
    keep_ = !stored.answers.empty();
    MOELORA_CHECK(resume || !keep_, path_.string(), " holds ", stored.answers.size(),
                  " answers of a run that was broken off; go on with --resume, or remove the file to begin anew");
    if (!keep_) {
      MOELORA_CHECK(::ftruncate(descriptor_, 0) == 0, "cannot write ", path_.string(), ": ", std::strerror(errno));
    }
    // A disk that has no room left shows now.
    const off_t size = ::lseek(descriptor_, 0, SEEK_END);
    const std::string probe(4096, ' ');
    const ssize_t written = ::write(descriptor_, probe.data(), probe.size());
    const int cause = written < 0 ? errno : ENOSPC;
    MOELORA_CHECK(::ftruncate(descriptor_, size) == 0, "cannot write ", path_.string(), ": ", std::strerror(errno));
    if (written != static_cast<ssize_t>(probe.size())) {
      fail_to_open(path_, cause);
    }
  } catch (...) {
    if (!keep_ && ::lseek(descriptor_, 0, SEEK_END) == 0) {
      ::unlink(path_.c_str());
    }
    ::close(descriptor_);
    throw;
  }
}

AnswerFile::~AnswerFile() {
  if (!keep_) {
    ::unlink(path_.c_str());
  }
  ::close(descriptor_);
}

std::vector<Answer> AnswerFile::begin(const ordered_json& identity) {
  StoredAnswers stored = parse_answers(io::read_text_file(path_), path_);
  if (stored.answers.empty()) {
    stored.size = 0;
  } else {
    check_identity(stored.identity, identity, path_);
  }
  MOELORA_CHECK(::ftruncate(descriptor_, static_cast<off_t>(stored.size)) == 0 &&
                    ::lseek(descriptor_, 0, SEEK_END) == static_cast<off_t>(stored.size),
                "cannot write ", path_.string(), ": ", std::strerror(errno));
  if (stored.size == 0) {
    write(ordered_json{{kIdentityKey, identity}}.dump() + "\n");
  }
  return std::move(stored.answers);
}

void AnswerFile::add(const std::vector<Answer>& answers) {
  std::string text;
  for (const Answer& answer : answers) {
    text += to_json(answer).dump() + "\n";
  }
  keep_ = true;  // also if the disk takes only a part of it
  write(text);
  ::fdatasync(descriptor_);
}

void AnswerFile::remove() {
  keep_ = false;
  ::unlink(path_.c_str());
}

std::vector<Answer> AnswerFile::read(const fs::path& path, const ordered_json& identity) {
  if (!fs::exists(path)) {
    return {};
  }
  StoredAnswers stored = parse_answers(io::read_text_file(path), path);
  if (!stored.answers.empty()) {
    check_identity(stored.identity, identity, path);
  }
  return std::move(stored.answers);
}

void AnswerFile::write(std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = ::write(descriptor_, text.data(), text.size());
    if (written < 0 && errno == EINTR) {
      continue;
    }
    MOELORA_CHECK(written > 0, "cannot write ", path_.string(), ": ", std::strerror(written < 0 ? errno : ENOSPC),
                  "; the answers so far are kept: free space and go on with --resume");
    text.remove_prefix(static_cast<std::size_t>(written));
  }
}

}  // namespace moelora::data
