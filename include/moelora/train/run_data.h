#pragma once
// The records of a run: read, divided and encoded as the configuration's section "data" says.

#include <cstdint>
#include <string>
#include <vector>

#include "moelora/adapter/task_names.h"
#include "moelora/data/example.h"
#include "moelora/data/record.h"
#include "moelora/model/tokenizer.h"
#include "moelora/train/config.h"

namespace moelora::train {

struct RunData {
  std::vector<data::Record> train;
  std::vector<data::Record> validation;
};

/// Reads a file of records and logs what was left out, and which task names may be one task in several spellings.
/// The problems of records that were left out are added to `left_out`, if it is given.
std::vector<data::Record> read_and_report(const std::filesystem::path& path, const data::ReadOptions& options = {},
                                          std::vector<std::string>* left_out = nullptr);

/// Warns if some of `others` have the input and history of a training record, with their number and a few names.
/// `what`: where they come from.
void warn_of_shared_questions(const std::vector<data::Record>& train, const std::vector<data::Record>& others,
                              const std::string& what);

/// Tasks, part, number, duplicates and validation part as configured, task prompts in front. `seed`: of the part that
/// is carved out. Logs the tasks with their numbers of records; warns of a validation part that is too small to tell
/// anything or that asks what training asks.
RunData read_run_data(const DataSection& section, std::uint64_t seed);

/// Training form of all records; logs how many were cut. Error: a task that is not among `tasks`.
std::vector<data::Example> encode_examples(const std::vector<data::Record>& records, const TaskNames& tasks,
                                           const model::Tokenizer& tokenizer, const data::EncodeOptions& options,
                                           const std::string& what);

}  // namespace moelora::train
