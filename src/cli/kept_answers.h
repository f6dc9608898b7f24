#pragma once
// The answers of a run, kept while it goes on: in one file for each rank that sees the folder.

#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>

#include "cli/predict.h"
#include "moelora/data/answer_file.h"
#include "moelora/train/process_group.h"

namespace moelora::cli {

class KeptAnswers {
 public:
  /// The first rank opens `file` and proves that it can be written to. Errors as AnswerFile.
  KeptAnswers(std::filesystem::path file, bool resume, train::ProcessGroup* ranks = nullptr);

  /// All ranks: gives `options` the answers that are there, and has it keep those to come. The other ranks keep theirs
  /// beside the first one's file if they see its folder.
  void begin(const nlohmann::ordered_json& identity, eval::EvaluateOptions& options);
  /// First rank: the result is written, all ranks' files can go.
  void remove();

 private:
  std::filesystem::path file_of(int rank) const;
  std::vector<std::filesystem::path> files_of_others() const;

  std::filesystem::path file_;
  train::ProcessGroup* ranks_;
  std::unique_ptr<data::AnswerFile> own_;
};

/// All that answers depend on: records, model, adapter and the options that change what is said. The session has its
/// base's fingerprint.
nlohmann::ordered_json identity_of_answers(const Session& session, const std::vector<data::Record>& records,
                                           const eval::EvaluateOptions& options, const PromptOptions& prompt);

}  // namespace moelora::cli
