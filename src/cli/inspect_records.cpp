#include "cli/inspect_records.h"

#include <algorithm>
#include <cstdio>
#include <set>

#include "cli/session.h"
#include "cli/show_records.h"
#include "moelora/data/json_scanner.h"
#include "moelora/data/split.h"
#include "moelora/data/task_counts.h"
#include "moelora/io/error.h"
#include "moelora/io/file_kind.h"
#include "moelora/io/json_file.h"
#include "moelora/io/utf8.h"

namespace moelora::cli {
namespace {

constexpr const char* kBlank = " \t\r\n";

void print_line(const std::string& name, const std::string& value) {
  std::printf("%-22s %s\n", name.c_str(), value.c_str());
}

std::int64_t records_of_known_input(const std::vector<data::Record>& records) {
  std::set<std::string> seen;
  return std::count_if(records.begin(), records.end(), [&](const data::Record& record) {
    return record.history.empty() && !seen.insert(record.input).second;
  });
}

/// Answers that are none of their record's choices: they can never be scored as right.
void print_choices(const std::vector<data::Record>& records) {
  std::int64_t with_choices = 0;
  data::CountedRecords others;
  for (const data::Record& record : records) {
    const auto& choices = record.answer_choices;
    with_choices += choices.empty() ? 0 : 1;
    if (!choices.empty() && !record.target.empty() &&
        std::find(choices.begin(), choices.end(), record.target) == choices.end()) {
      others.add(data::record_name(record));
    }
  }
  if (with_choices > 0) {
    print_line("with choices", io::with_commas(with_choices));
    if (others.count > 0) {
      print_line("answer is no choice", others.text());
    }
  }
}

/// Also questions without a task, which generate answers; what is missing is told by the stricter reading.
data::RecordFile read_whatever(const std::filesystem::path& path, const data::FieldMap& fields) {
  try {
    return data::read_records(path, {.fields = fields});
  } catch (const Error&) {
    try {
      return data::read_records(path, {.need_task = false, .fields = fields});
    } catch (const Error&) {
    }
    throw;
  }
}

/// What the strict reading of training takes of so many records, and the first that it does not.
std::string usable_for_training(const std::filesystem::path& path, const data::FieldMap& fields, std::size_t all) {
  std::size_t usable = 0;
  std::string problem;
  try {
    const data::RecordFile file = data::read_records(path, {.need_target = true, .fields = fields});
    usable = file.records.size();
    problem = file.problems.empty() ? "" : file.problems.front();
  } catch (const Error& error) {
    problem = error.what();
  }
  std::string text = io::with_commas(static_cast<std::int64_t>(usable));
  if (usable < all) {
    text += " of " + io::with_commas(static_cast<std::int64_t>(all)) + "; " + problem.substr(0, problem.find('\n'));
  }
  return text;
}

}  // namespace

bool is_data_file(const std::filesystem::path& path) {
  if (!std::filesystem::is_regular_file(path)) {
    return false;  // a pipe can be read once
  }
  const std::string text = io::to_utf8(io::read_text_file(path), path.string());
  const std::string kind = io::kind_of_file(text);
  MOELORA_CHECK(
      kind.empty(), path.string(), ": this is ", kind,
      "; expected a model folder, an adapter folder, a configuration, or records (JSON lines or an array with "
      "\"input\", \"target\" and \"task_dataset\")");
  const std::size_t begin = text.find_first_not_of(kBlank);
  if (begin == std::string::npos || (text[begin] != '{' && text[begin] != '[')) {
    return false;
  }
  if (text[begin] == '[' || path.extension() == ".jsonl") {
    return true;
  }
  try {
    const data::JsonExtent object = data::scan_json(text, begin);
    const auto has_one_of = [&](std::initializer_list<std::string_view> keys) {
      return std::any_of(object.members.begin(), object.members.end(), [&](const data::JsonExtent::Member& member) {
        return std::find(keys.begin(), keys.end(), member.name()) != keys.end();
      });
    };
    return text.find_first_not_of(kBlank, object.end) != std::string::npos ||
           (has_one_of({"input", "target", "task_dataset", "instruction", "conversations", "messages", "question"}) &&
            !has_one_of({"model", "data", "hidden_size"}));
  } catch (const data::JsonFault&) {
    return false;  // the reader of configurations says where it breaks
  }
}

void inspect_records(const std::filesystem::path& path, const RecordInspection& inspection) {
  const data::RecordFile file = read_whatever(path, inspection.fields);
  const std::vector<data::Record>& records = file.records;
  print_line("file of records", path.string());
  if (!inspection.fields.is_default()) {
    print_line("fields", inspection.fields.to_json().dump());
  }
  print_line("records", io::with_commas(static_cast<std::int64_t>(records.size())));
  const auto answered =
      std::count_if(records.begin(), records.end(), [](const auto& one) { return !one.target.empty(); });
  print_line("with target", io::with_commas(answered));
  print_line("usable for training", usable_for_training(path, inspection.fields, records.size()));
  if (const std::int64_t again = records_of_known_input(records); again > 0) {
    print_line("of an earlier's input", io::with_commas(again));
  }
  const auto longest = std::max_element(records.begin(), records.end(), [](const auto& one, const auto& other) {
    return one.input.size() < other.input.size();
  });
  print_line("longest input", io::with_commas(static_cast<std::int64_t>(io::count_characters(longest->input))) +
                                  " characters (" + longest->sample_id + (longest->sample_id.empty() ? "" : ", ") +
                                  "line " + std::to_string(longest->line) + ")");
  const std::vector<data::TaskCount> tasks = data::count_tasks(records);
  print_line("tasks", io::with_commas(static_cast<std::int64_t>(tasks.size())));
  for (const data::TaskCount& count : tasks) {
    print_line("  '" + count.task + "'", io::with_commas(count.records));
  }
  for (const auto& twins : data::near_twins(tasks)) {
    print_line("one task, or several?", data::list_of_tasks(twins));
  }
  for (const std::string& problem : file.problems) {
    print_line("left out", problem);
  }
  for (const std::string& warning : file.warnings) {
    print_line("warning", warning);
  }
  print_choices(records);
  show_records(records, inspection);
  std::printf("Records are for moelora train (data.train), eval and generate; this is no configuration.\n");
}

}  // namespace moelora::cli
