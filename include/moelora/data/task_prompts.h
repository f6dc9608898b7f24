#pragma once
// Task prompts: a task's name and description in front of the input, as in "LoRA (Full + TP)" of arXiv 2310.18339,
// where one plain LoRA learns all tasks and only the prompt says which one is asked.
//
//   任务：NAME。DESCRIPTION⏎input

#include <filesystem>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "moelora/data/record.h"

namespace moelora::data {

class TaskPrompts {
 public:
  TaskPrompts() = default;  ///< None: records stay as they are.
  /// {"CMeIE": "description", …}. The key "default", if there, describes every other task. Error listing every
  /// description that is no string; error if there is none at all. `source` names the JSON in error texts.
  explicit TaskPrompts(const nlohmann::ordered_json& json, std::string source = "the task prompts");
  /// Reads a JSON file; an empty path gives none.
  static TaskPrompts from_file(const std::filesystem::path& path);

  bool empty() const { return descriptions_.empty(); }
  /// What stands in front of the task's inputs, its line end included; empty if there are no prompts at all. Error: an
  /// unknown task, unless there is a default; it names the known ones.
  std::string text(std::string_view task) const;
  /// The record with its task's text in front of its input. Earlier rounds of a conversation stay as they are.
  Record apply(Record record) const;
  std::vector<Record> apply_all(std::vector<Record> records) const;

 private:
  std::map<std::string, std::string, std::less<>> descriptions_;
  std::vector<std::string> names_;  ///< its keys in the order of the JSON
  std::string source_;
};

}  // namespace moelora::data
