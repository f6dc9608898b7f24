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

/// Reads a file of records and logs what was left out.
std::vector<data::Record> read_and_report(const std::filesystem::path& path, const data::ReadOptions& options = {});

/// Writes records as JSON lines, atomically. Bytes that are no UTF-8 (an answer's) are replaced.
void write_records(const std::filesystem::path& path, const std::vector<data::Record>& records);

/// Tasks, part, number, duplicates and validation part as configured, task prompts in front. `seed`: of the part that
/// is carved out.
RunData read_run_data(const DataSection& section, std::uint64_t seed);

/// Training form of all records; logs how many were cut. Error: a task that is not among `tasks`.
std::vector<data::Example> encode_examples(const std::vector<data::Record>& records, const TaskNames& tasks,
                                           const model::Tokenizer& tokenizer, const data::EncodeOptions& options,
                                           const std::string& what);

}  // namespace moelora::train
