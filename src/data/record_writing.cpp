#include <algorithm>
#include <nlohmann/json.hpp>
#include <string_view>

#include "moelora/data/json_scanner.h"
#include "moelora/data/record.h"
#include "moelora/io/atomic_file.h"

namespace moelora::data {
namespace {

/// A record's own text in one line, with the prediction as its last member. What the members hold stays as it is
/// written.
std::string with_prediction(const std::string& original, const std::string& prediction) {
  const auto in_one_line = [](std::string_view text) {  // no string holds the end of a line
    std::string line(text);
    std::replace_if(
        line.begin(), line.end(), [](char c) { return c == '\n' || c == '\r' || c == '\t'; }, ' ');
    return line;
  };
  std::string text = "{";
  for (const JsonExtent::Member& member : scan_json(original, 0).members) {
    if (member.name() != kPredictionField) {
      text += '"' + std::string(member.key) +
              "\": " + in_one_line(std::string_view(original).substr(member.value, member.value_end - member.value)) +
              ", ";
    }
  }
  return text + '"' + kPredictionField +
         "\": " + nlohmann::json(prediction).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "}";
}

}  // namespace

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
  if (!record.system.empty()) {
    json["system"] = record.system;
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

void write_predictions(const std::filesystem::path& path, const std::vector<Record>& records) {
  std::string text;
  for (const Record& record : records) {
    text += record.original ? with_prediction(*record.original, record.target) + "\n" : json_lines({record});
  }
  io::write_file_atomically(path, text);
}

void write_records(const std::filesystem::path& path, const std::vector<Record>& records) {
  io::write_file_atomically(path, json_lines(records));
}

}  // namespace moelora::data
