#pragma once
// Answers for many records: prompts in batches of like length, with progress.

#include <string>
#include <vector>

#include "cli/session.h"
#include "moelora/data/example.h"

namespace moelora::cli {

struct PredictOptions {
  data::EncodeOptions encode;
  model::GenerationOptions generation;
  std::int64_t batch_size = 16;
};

/// --batch-size, --max-source-length, --max-new-tokens and the sampling options.
void add_predict_options(CLI::App& verb, PredictOptions& options);

/// The cleaned answer to each record, in the records' order. Which records share a batch changes nothing.
std::vector<std::string> predict(const Session& session, const std::vector<data::Record>& records,
                                 const PredictOptions& options);

/// Writes the records with the answers in `target`, one JSON object per line, atomically.
void write_predictions(const std::filesystem::path& path, const std::vector<data::Record>& records,
                       const std::vector<std::string>& answers);

/// Reads records and logs what was left out.
std::vector<data::Record> read_and_report(const std::filesystem::path& path);

}  // namespace moelora::cli
