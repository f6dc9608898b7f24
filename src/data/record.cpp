#include "moelora/data/record.h"

#include <algorithm>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <unordered_set>
#include <utility>

#include "moelora/io/error.h"
#include "moelora/io/sha256.h"

namespace moelora::data {
namespace {

/// The fields that two equal records share, each with its length in front, so that no two different ones collide.
void hash_text(io::Sha256& hash, const std::string& text) {
  const std::uint64_t size = text.size();
  hash.update(&size, sizeof size).update(text);
}

void hash_record(io::Sha256& hash, const Record& record) {
  for (const std::string* part : {&record.input, &record.target, &record.task}) {
    hash_text(hash, *part);
  }
  for (const auto& [question, answer] : record.history) {
    hash_text(hash, question);
    hash_text(hash, answer);
  }
}

bool is_blank(char c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n'; }

std::string string_field(const nlohmann::json& json, const char* key, bool required) {
  const auto found = json.find(key);
  if (found == json.end() || found->is_null()) {
    MOELORA_CHECK(!required, "the field \"", key, "\" is missing");
    return {};
  }
  if (!required && found->is_number()) {  // sample ids of some files are numbers
    return found->dump();
  }
  MOELORA_CHECK(found->is_string(), "expected a string as \"", key, "\", found ", found->type_name());
  return found->get<std::string>();
}

Record parse_record(const std::string& text, bool need_target, bool need_task) {
  const nlohmann::json json = nlohmann::json::parse(text);
  MOELORA_CHECK(json.is_object(), "expected an object, found ", json.type_name());
  Record record;
  record.input = string_field(json, "input", true);
  record.target = string_field(json, "target", need_target);
  record.task = string_field(json, "task_dataset", need_task);
  record.task_type = string_field(json, "task_type", false);
  record.sample_id = string_field(json, "sample_id", false);
  MOELORA_CHECK(!record.input.empty(), "\"input\" is empty");
  MOELORA_CHECK(!need_task || !record.task.empty(), "\"task_dataset\" is empty");
  MOELORA_CHECK(!need_target || !record.target.empty(), "\"target\" is empty");
  const auto choices = json.find("answer_choices");
  if (choices != json.end() && !choices->is_null()) {
    const bool strings = choices->is_array() && std::all_of(choices->begin(), choices->end(),
                                                            [](const auto& entry) { return entry.is_string(); });
    MOELORA_CHECK(strings, "expected a list of strings or null as \"answer_choices\", found ", choices->type_name());
    record.answer_choices = choices->get<std::vector<std::string>>();
  }
  const auto history = json.find("history");
  if (history != json.end() && !history->is_null()) {
    const auto is_round = [](const auto& entry) {
      return entry.is_array() && entry.size() == 2 && entry[0].is_string() && entry[1].is_string();
    };
    MOELORA_CHECK(history->is_array() && std::all_of(history->begin(), history->end(), is_round),
                  "expected a list of [question, answer] pairs as \"history\", found ", history->dump().substr(0, 80));
    for (const auto& round : *history) {
      record.history.emplace_back(round[0].template get<std::string>(), round[1].template get<std::string>());
    }
  }
  return record;
}

/// What the parser says, without its own error number and with the place kept.
std::string parse_problem(const std::exception& error) {
  std::string text = error.what();
  const std::size_t end = text.find("] ");
  if (text.starts_with("[json.") && end != std::string::npos) {
    text = "broken JSON: " + text.substr(end + 2);
  }
  return text.size() > 200 ? text.substr(0, 200) + "…" : text;
}

/// Calls `entry(number, text)` for each non-blank line.
void split_lines(std::istream& stream, const std::function<void(std::int64_t, const std::string&)>& entry) {
  std::string line;
  for (std::int64_t number = 1; std::getline(stream, line); ++number) {
    if (!std::all_of(line.begin(), line.end(), is_blank)) {
      entry(number, line);
    }
  }
}

/// Calls `entry(number, text)` for each element of the array that the stream stands in (behind its '['). Elements are
/// cut at commas outside of strings and brackets, so that one bad element does not hide the others and only one is
/// held.
void split_array(std::istream& stream, const std::string& path,
                 const std::function<void(std::int64_t, const std::string&)>& entry) {
  std::string text;
  std::int64_t number = 1;
  std::int64_t depth = 0;
  bool in_string = false;
  const auto emit = [&](bool last) {
    const bool blank = std::all_of(text.begin(), text.end(), is_blank);
    if (!(blank && last && number == 1)) {
      entry(number++, text);
    }
    text.clear();
  };
  std::streambuf& buffer = *stream.rdbuf();
  for (int next = buffer.sbumpc(); next != std::streambuf::traits_type::eof(); next = buffer.sbumpc()) {
    const char c = static_cast<char>(next);
    if (in_string) {
      text.push_back(c);
      if (c == '\\' && buffer.sgetc() != std::streambuf::traits_type::eof()) {
        text.push_back(static_cast<char>(buffer.sbumpc()));
      } else if (c == '"') {
        in_string = false;
      }
      continue;
    }
    if (depth == 0 && (c == ',' || c == ']')) {
      emit(c == ']');
      if (c == ']') {
        return;
      }
      continue;
    }
    in_string = c == '"';
    depth += (c == '{' || c == '[') ? 1 : (c == '}' || c == ']') ? -1 : 0;
    text.push_back(c);
  }
  MOELORA_CHECK(false, path, ": the JSON array is cut off in entry ", number,
                " (no closing bracket); get the whole file");
}

/// Stands at the first character that is neither a byte-order mark nor blank.
int skip_to_content(std::istream& stream) {
  if (stream.peek() == 0xef) {
    char mark[3];
    stream.read(mark, sizeof mark);
  }
  const std::istream::pos_type start = stream.tellg();
  int first = stream.get();
  while (first != std::istream::traits_type::eof() && is_blank(static_cast<char>(first))) {
    first = stream.get();
  }
  if (first != '[') {
    stream.clear();
    stream.seekg(start);  // lines are counted from the top
  }
  return first;
}

}  // namespace

RecordFile read_records(const std::filesystem::path& path, const ReadOptions& options) {
  std::ifstream stream(path, std::ios::binary);
  MOELORA_CHECK(stream && !std::filesystem::is_directory(path), "cannot read the records in ", path.string(),
                ": no such file; give a file of JSON lines or a JSON array");
  RecordFile file;
  std::unordered_set<std::string> seen;
  const auto entry = [&](std::int64_t number, const std::string& text) {
    try {
      Record record = parse_record(text, options.need_target, options.need_task);
      record.line = number;
      if (options.deduplicate) {
        io::Sha256 hash;
        hash_record(hash, record);
        if (!seen.insert(hash.hex()).second) {
          ++file.duplicates;
          return;
        }
      }
      file.records.push_back(std::move(record));
    } catch (const std::exception& error) {
      file.problems.push_back(path.string() + ":" + std::to_string(number) + ": " + parse_problem(error));
      MOELORA_CHECK(static_cast<std::int64_t>(file.problems.size()) <= options.max_problems, path.string(),
                    ": more than ", options.max_problems, " bad records; the first: ", file.problems.front(),
                    "; expected JSON with \"input\", \"target\" and \"task_dataset\"");
    }
  };
  if (skip_to_content(stream) == '[') {
    split_array(stream, path.string(), entry);
  } else {
    split_lines(stream, entry);
  }
  MOELORA_CHECK(
      !file.records.empty(), path.string(), ": not a single good record",
      file.problems.empty() ? std::string(" (the file is empty)") : "; the first problem: " + file.problems[0]);
  return file;
}

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

std::string data_hash(const std::vector<Record>& records) {
  io::Sha256 hash;
  for (const Record& record : records) {
    hash_record(hash, record);
  }
  return hash.hex();
}

std::vector<std::string> task_names_of(const std::vector<Record>& records) {
  std::vector<std::string> names;
  std::unordered_set<std::string> seen;
  for (const Record& record : records) {
    if (seen.insert(record.task).second) {
      names.push_back(record.task);
    }
  }
  return names;
}

}  // namespace moelora::data
