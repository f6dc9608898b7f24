#pragma once
// Records: a prompt, its answer and its task, read from JSON of any fields (data/field_map.h) and written as
// PromptCBLUE's.

#include <cstdint>
#include <filesystem>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <utility>
#include <vector>

#include "moelora/data/field_map.h"

namespace moelora::data {

struct Record {
  std::string input;  ///< The prompt.
  std::string target;
  std::string task;  ///< task_dataset
  std::string task_type;
  std::string sample_id;
  std::vector<std::string> answer_choices;  ///< empty when null or absent
  /// Earlier rounds of a conversation, (question, answer) each; empty when `history` is absent.
  std::vector<std::pair<std::string, std::string>> history;
  std::string system;       ///< Text that comes before a conversation; empty: none.
  double weight = 1.0;      ///< How often it is drawn in training, against a record of weight 1.
  std::string file;         ///< Its file, where several were read together.
  std::int64_t line = 0;    ///< 1-based line in its file on which it begins
  std::int64_t number = 0;  ///< 1-based place among its file's records, those left out counted
  /// The record as its file has it, where ReadOptions asked for it: what write_predictions() keeps.
  std::shared_ptr<const std::string> original;
};

struct RecordFile {
  std::vector<Record> records;
  std::vector<std::string> problems;  ///< "file:line:column: what is wrong" for each one left out
  std::int64_t duplicates = 0;        ///< records left out because input, target and task were seen before
  std::int64_t fallback_tasks = 0;    ///< records that got their task from another than the first source that is named
  std::vector<std::string> warnings;  ///< optional fields that the mapping names itself and no record has
};

struct ReadOptions {
  bool deduplicate = false;
  std::int64_t max_problems = 100;  ///< More bad records than this: an Error (it is another kind of file).
  bool need_target = false;         ///< An empty target is a problem (training data).
  bool need_task = true;            ///< Without "task_dataset" a record is a problem.
  FieldMap fields = {};             ///< Which fields are prompt, answer, task, …
  bool keep_original = false;       ///< Keep each record's own text (not of promptcblue's fields).
};

/// JSON lines, JSON arrays, objects over several lines: any number of them, one after another, from a file or a pipe,
/// in UTF-8 or UTF-16. A bad record is reported with file, line and column (in characters), counted and left out.
/// Error: no such file, not a single good record, an array that never ends, something else than records behind an
/// array, a field that the mapping names itself and no record has.
RecordFile read_records(const std::filesystem::path& path, const ReadOptions& options = {});

/// JSON lines, written atomically. Bytes that are no UTF-8 (an answer's) are replaced.
void write_records(const std::filesystem::path& path, const std::vector<Record>& records);
std::string json_lines(const std::vector<Record>& records);  ///< What write_records() writes.
/// As write_records(); a record whose original text was kept is written as that, with its target as kPredictionField.
void write_predictions(const std::filesystem::path& path, const std::vector<Record>& records);

/// Keys as in PromptCBLUE; no task_dataset without a task, no system without one.
nlohmann::ordered_json to_json(const Record& record);

/// SHA-256 over all records' input, target, task and history, and those weights and system texts that there are, in
/// order.
std::string data_hash(const std::vector<Record>& records);

/// Distinct task names in order of first appearance.
std::vector<std::string> task_names_of(const std::vector<Record>& records);

}  // namespace moelora::data
