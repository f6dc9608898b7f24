#include "moelora/train/run_data.h"

#include <algorithm>
#include <map>

#include "moelora/data/as_text.h"
#include "moelora/data/split.h"
#include "moelora/data/task_counts.h"
#include "moelora/data/task_prompts.h"
#include "moelora/io/error.h"
#include "moelora/io/saved_names.h"
#include "moelora/log/log.h"

namespace moelora::train {
namespace {

void report_tasks(const RunData& run) {
  std::map<std::string, std::int64_t> for_validation;
  for (const data::TaskCount& count : data::count_tasks(run.validation)) {
    for_validation[count.task] = count.records;
  }
  const std::vector<data::TaskCount> tasks = data::count_tasks(run.train);
  log::info(detail::concat("training records have ", tasks.size(), tasks.size() == 1 ? " task:" : " tasks:"));
  for (const data::TaskCount& count : tasks) {
    log::info(detail::concat("  '", count.task, "': ", count.records, " for training, ", for_validation[count.task],
                             " for validation"));
  }
}

void warn_of_small_validation(const std::vector<data::Record>& validation) {
  std::int64_t most = 0;
  const std::vector<data::TaskCount> tasks = data::count_tasks(validation);
  for (const data::TaskCount& count : tasks) {
    most = std::max(most, count.records);
  }
  if (most == 1) {
    log::warning(detail::concat(
        "the validation part has ", tasks.size() == 1 ? "a single record" : "no more than one record of each task",
        ": its loss says little about which step is best; give more with data.validation_size or data.validation, or ",
        "none with data.validation_size = 0"));
  }
}

}  // namespace

void warn_of_shared_questions(const std::vector<data::Record>& train, const std::vector<data::Record>& others,
                              const std::string& what) {
  std::vector<std::string> names;
  for (const std::size_t place : data::shared_questions(train, others)) {
    const data::Record& record = others[place];
    names.push_back(record.sample_id.empty() ? data::record_name(record)
                                             : record.sample_id + " (line " + std::to_string(record.line) + ")");
  }
  if (!names.empty()) {
    log::warning(
        detail::concat(what, ": ", names.size(), " of ", others.size(),
                       " records ask what a training record asks too (the same input): ", io::in_a_row(names),
                       "; what is measured on them is better than on new records; leave them out of one side"));
  }
}

std::vector<data::Record> read_and_report(const std::filesystem::path& path, const data::ReadOptions& options,
                                          std::vector<std::string>* left_out) {
  return read_and_report(std::vector<DataFile>{{path.string(), 1.0, std::nullopt}}, options, left_out);
}

RunData read_run_data(const DataSection& section, std::uint64_t seed) {
  data::ReadOptions read;
  read.deduplicate = section.deduplicate;
  read.need_target = true;
  read.fields = section.fields;
  const auto of_tasks = [&](std::vector<data::Record> records) {
    return data::select_tasks(std::move(records), section.tasks, section.without_tasks);
  };
  std::vector<data::Record> records =
      data::select_part(of_tasks(read_and_report(section.training(), read)), section.part_index, section.part_of);
  if (section.max_records > 0) {
    records = data::select_few(std::move(records), section.max_records);
  }
  RunData result;
  const std::vector<DataFile> validating = section.validating();
  if (!validating.empty()) {
    result = {std::move(records), of_tasks(read_and_report(validating, read))};
  } else {
    const std::int64_t size = section.validation_size >= 0
                                  ? section.validation_size
                                  : data::default_validation_size(static_cast<std::int64_t>(records.size()));
    data::Split split = data::carve_validation(std::move(records), size, seed);
    result = {std::move(split.train), std::move(split.validation)};
    if (const auto given = static_cast<std::int64_t>(result.validation.size()); given != size) {
      log::warning(detail::concat("the validation part has ", given, " records where ", size,
                                  " were asked for: a task keeps at least one training record, and records of the same "
                                  "input stay together"));
    }
  }
  report_tasks(result);
  warn_of_small_validation(result.validation);
  warn_of_shared_questions(result.train, result.validation, title_of(validating));
  // Afterwards, so that the changes touch no hash that parts are decided by.
  if (section.as_text) {
    return {data::as_texts(std::move(result.train)), data::as_texts(std::move(result.validation))};
  }
  const data::TaskPrompts prompts = data::TaskPrompts::from_file(section.task_prompts);
  return {prompts.apply_all(std::move(result.train)), prompts.apply_all(std::move(result.validation))};
}

std::vector<data::Example> encode_examples(const std::vector<data::Record>& records, const TaskNames& tasks,
                                           const model::Tokenizer& tokenizer, const data::EncodeOptions& options,
                                           const std::string& what) {
  std::vector<data::Example> examples;
  examples.reserve(records.size());
  data::CountedRecords sources;
  data::CountedRecords targets;
  for (const data::Record& record : records) {
    examples.push_back(data::encode_pair(record, tasks.index(record.task), tokenizer, options));
    const data::Example& example = examples.back();
    if (example.source_cut) {
      sources.add(example.id);
    }
    if (example.target_cut) {
      targets.add(example.id);
    }
  }
  log::info(detail::concat(what, ": ", examples.size(), " records, ", sources.count, " inputs and ", targets.count,
                           " targets of them cut to the longest length"));
  if (sources.count > 0) {
    log::warning(detail::concat(what, ": inputs longer than max_source_length ", options.max_source_length,
                                " lose their ", data::cut_name(options.cut), ": ", sources.text()));
  }
  if (targets.count > 0) {
    log::warning(detail::concat(what, ": targets longer than max_target_length ", options.max_target_length,
                                " lose their end: ", targets.text()));
  }
  return examples;
}

}  // namespace moelora::train
