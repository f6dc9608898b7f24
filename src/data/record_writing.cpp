#include <nlohmann/json.hpp>

#include "moelora/data/record.h"
#include "moelora/io/atomic_file.h"

namespace moelora::data {

nlohmann::ordered_json to_json(const Record& record) {
  nlohmann::ordered_json json;
  json["input"] = record.input;
  json["target"] = record.target;
  json["answer_choices"] = nullptr;
  if (!record.answer_choices.empty()) {
    json["answer_choices"] = record.answer_choices;
  }
  json["task_type"] = record.task_type;
  if (!record.task.empty()) {
    json["task_dataset"] = record.task;
  }
  json["sample_id"] = record.sample_id;
  if (!record.history.empty()) {
    json["history"] = record.history;
  }
  return json;
}

std::string json_lines(const std::vector<Record>& records) {
  std::string text;
  for (const Record& record : records) {
    text += to_json(record).dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
  }
  return text;
}

void write_records(const std::filesystem::path& path, const std::vector<Record>& records) {
  io::write_file_atomically(path, json_lines(records));
}

}  // namespace moelora::data
