#pragma once
// PromptCBLUE records.

#include <cstdint>
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <utility>
#include <vector>

namespace moelora::data {

struct Record {
  std::string input;
  std::string target;
  std::string task;  ///< task_dataset
  std::string task_type;
  std::string sample_id;
  std::vector<std::string> answer_choices;  ///< empty when null or absent
  /// Earlier rounds of a conversation, (question, answer) each; empty when `history` is absent.
  std::vector<std::pair<std::string, std::string>> history;
  std::int64_t line = 0;    ///< 1-based line in its file on which it begins
  std::int64_t number = 0;  ///< 1-based place among its file's records, those left out counted
};

struct RecordFile {
  std::vector<Record> records;
  std::vector<std::string> problems;  ///< "file:line:column: what is wrong" for each one left out
  std::int64_t duplicates = 0;        ///< records left out because input, target and task were seen before
};

struct ReadOptions {
  bool deduplicate = false;
  std::int64_t max_problems = 100;  ///< More bad records than this: an Error (it is another kind of file).
  bool need_target = false;         ///< An empty target is a problem (training data).
  bool need_task = true;            ///< Without "task_dataset" a record is a problem.
};

/// JSON lines, JSON arrays, objects over several lines: any number of them, one after another, from a file or a pipe,
/// in UTF-8 or UTF-16. A bad record is reported with file, line and column (in characters), counted and left out.
/// Error: no such file, not a single good record, an array that never ends, something else than records behind an
/// array.
RecordFile read_records(const std::filesystem::path& path, const ReadOptions& options = {});

/// JSON lines, written atomically. Bytes that are no UTF-8 (an answer's) are replaced.
void write_records(const std::filesystem::path& path, const std::vector<Record>& records);
std::string json_lines(const std::vector<Record>& records);  ///< What write_records() writes.

nlohmann::ordered_json to_json(const Record& record);  ///< Keys as in PromptCBLUE; no task_dataset without a task.

/// SHA-256 over all records' input, target, task and history, in order.
std::string data_hash(const std::vector<Record>& records);

/// Distinct task names in order of first appearance.
std::vector<std::string> task_names_of(const std::vector<Record>& records);

}  // namespace moelora::data
