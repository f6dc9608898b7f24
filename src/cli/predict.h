#pragma once
// Answers for many records, with progress on stderr.

#include <filesystem>
#include <vector>

#include "cli/session.h"
#include "moelora/eval/evaluate.h"
#include "moelora/train/process_group.h"
#include "moelora/train/run_data.h"

namespace moelora::cli {

using train::read_and_report;

/// --batch-size, --max-source-length, --max-new-tokens and the sampling options.
void add_predict_options(CLI::App& verb, eval::EvaluateOptions& options);

/// eval::evaluate with the session's adapter, each record answered as its own task. Several ranks share the batches of
/// one process, and all get all answers: the same as one process's.
eval::Evaluation predict(const Session& session, const std::vector<data::Record>& records,
                         const eval::EvaluateOptions& options, train::ProcessGroup* ranks = nullptr);

/// Writes records, one JSON object per line, atomically.
void write_records(const std::filesystem::path& path, const std::vector<data::Record>& records);

}  // namespace moelora::cli
