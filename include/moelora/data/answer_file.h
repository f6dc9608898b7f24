#pragma once
// Answers that are written as they come, so that a run that breaks off loses at most a batch: JSON lines beside the
// result. The first line says what the answers belong to; each further line is one answer.

#include <filesystem>
#include <nlohmann/json.hpp>
#include <vector>

#include "moelora/data/answer.h"

namespace moelora::data {

class AnswerFile {
 public:
  /// Opens or makes the file, its folder too, and shows that something can be written into it. Error: it can't be; it
  /// is in use by another process; it holds answers, but `resume` is false.
  AnswerFile(std::filesystem::path path, bool resume);
  ~AnswerFile();  ///< Removes the file if it holds no answer.
  AnswerFile(const AnswerFile&) = delete;
  AnswerFile& operator=(const AnswerFile&) = delete;

  /// What the answers to come belong to: everything that they depend on. Returns the answers that are there; a last
  /// line that was cut off is dropped. Error naming what differs if they belong to something else; a damaged line.
  std::vector<Answer> begin(const nlohmann::ordered_json& identity);
  /// Appends the answers in one piece. Error, the answers so far being kept: disk full.
  void add(const std::vector<Answer>& answers);
  void remove();  ///< The result is written: the file is no longer needed.

  /// The answers in another process's file; none if there is no such file. Errors as begin.
  static std::vector<Answer> read(const std::filesystem::path& path, const nlohmann::ordered_json& identity);

 private:
  void write(std::string_view text);

  std::filesystem::path path_;
  int descriptor_ = -1;
  bool keep_ = false;  // it holds answers
};

}  // namespace moelora::data
