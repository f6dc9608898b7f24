#pragma once
// log.jsonl: one JSON object per line, whole lines only. Its length is part of a checkpoint, so that a resumed run can
// cut off what came after and write the same lines again.

#include <cstdint>
#include <filesystem>
#include <nlohmann/json_fwd.hpp>

namespace moelora::train {

class RunLog {
 public:
  /// Opens or creates the file and cuts it to `length` bytes (a shorter file stays; that is logged as a warning).
  RunLog(std::filesystem::path path, std::int64_t length);
  ~RunLog();
  RunLog(const RunLog&) = delete;
  RunLog& operator=(const RunLog&) = delete;

  void write(const nlohmann::ordered_json& entry);  ///< Error naming path and cause (disk full).
  void sync();                                      ///< Until the lines are on the disk.
  std::int64_t length() const { return length_; }   ///< Bytes.

 private:
  std::filesystem::path path_;
  int descriptor_ = -1;
  std::int64_t length_ = 0;
};

}  // namespace moelora::train
