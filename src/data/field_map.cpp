#include "moelora/data/field_map.h"

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <utility>

#include "moelora/io/error.h"
#include "moelora/io/json_file.h"
#include "moelora/io/json_reader.h"
#include "moelora/io/json_text.h"
#include "moelora/io/readable.h"

namespace moelora::data {
namespace {

using nlohmann::ordered_json;

/// What a preset is, as an object of our own would say it.
ordered_json definition_of(const std::string& preset) {
  ordered_json json;
  if (preset == "alpaca") {
    json = ordered_json::parse(R"({"prompt": "{instruction}\n{input?}", "answer": "{output}", "history": "history"})");
  } else if (preset == "sharegpt") {
    json = ordered_json::parse(R"({"messages": {"list": "conversations", "role": "from", "content": "value",
        "user": ["human", "user"], "assistant": ["gpt", "assistant"], "system": ["system"]}})");
  } else {
    json = ordered_json::parse(R"({"messages": {"list": "messages", "role": "role", "content": "content",
        "user": ["user"], "assistant": ["assistant"], "system": ["system"]}})");
  }
  json["task"] = {"task", {{"constant", preset}}};
  json["choices"] = "choices";
  json["system"] = "system";
  json["id"] = "id";
  return json;
}

void read_template(io::JsonReader& reader, const char* key, TextTemplate& value) {
  std::string text;
  if (!reader.read(key, text)) {
    return;
  }
  try {
    value = TextTemplate(text);
    if (value.fields().empty()) {
      reader.problem(key, "expected a template with a field in it, such as \"{" + (text.empty() ? "text" : text) +
                              "}\", found \"" + text + "\"");
    }
  } catch (const Error& error) {
    reader.problem(key, error.what());
  }
}

void read_path(io::JsonReader& reader, const char* key, std::string& path) {
  if (reader.read(key, path) && path.empty()) {
    reader.problem(key, "expected a field's name, found an empty text");
  } else if (path.find_first_of("{}") != std::string::npos) {
    reader.problem(key, "expected a field's name without braces, found \"" + path + "\"");
  }
}

/// Nothing if it is no source.
std::optional<TaskSource> task_source(const ordered_json& json) {
  if (json.is_string() && !json.get_ref<const std::string&>().empty()) {
    return TaskSource{TaskSource::Kind::field, json.get<std::string>()};
  }
  if (!json.is_object() || json.size() != 1) {
    return std::nullopt;
  }
  const auto entry = json.begin();
  if (entry.key() == "constant" && entry->is_string() && !entry->get_ref<const std::string&>().empty()) {
    return TaskSource{TaskSource::Kind::constant, entry->get<std::string>()};
  }
  if (entry.key() == "file_name" && entry->is_boolean() && entry->get<bool>()) {
    return TaskSource{TaskSource::Kind::file_name, {}};
  }
  if (entry.key() == "field") {
    return task_source(*entry);
  }
  return std::nullopt;
}

void read_task(io::JsonReader& reader, std::vector<TaskSource>& task) {
  ordered_json json;
  if (!reader.read("task", json)) {
    return;
  }
  const ordered_json list = json.is_array() ? json : ordered_json::array({json});
  task.clear();
  for (const ordered_json& one : list) {
    const std::optional<TaskSource> source = task_source(one);
    if (!source) {
      reader.problem("task",
                     "expected a field's name, {\"constant\": \"NAME\"}, {\"file_name\": true} or a list of them, "
                     "found " +
                         one.dump(-1, ' ', false, ordered_json::error_handler_t::replace));
      return;
    }
    task.push_back(*source);
  }
  if (task.empty()) {
    reader.problem("task", "expected one source or more, found an empty list");
  }
}

void read_messages(io::JsonReader& reader, std::optional<MessageFields>& messages) {
  ordered_json json;
  if (!reader.read("messages", json) || json.is_null()) {
    return;
  }
  MessageFields fields = messages.value_or(MessageFields{"", "role", "content", {"user"}, {"assistant"}, {"system"}});
  if (json.is_string()) {  // the list's name says it all
    fields.list = json.get<std::string>();
    messages = fields;
    return;
  }
  io::JsonReader of_messages = reader.child("messages");
  read_path(of_messages, "list", fields.list);
  read_path(of_messages, "role", fields.role);
  read_path(of_messages, "content", fields.content);
  of_messages.read("user", fields.user);
  of_messages.read("assistant", fields.assistant);
  of_messages.read("system", fields.system);
  if (fields.list.empty()) {
    of_messages.problem("list", "the name of the field that holds the messages is missing");
  }
  messages = std::move(fields);
}

void read_object(io::JsonReader& reader, FieldMap& map) {
  const bool had_messages = map.messages.has_value();
  read_messages(reader, map.messages);
  read_template(reader, "prompt", map.prompt);
  read_template(reader, "answer", map.answer);
  read_task(reader, map.task);
  read_path(reader, "choices", map.choices);
  read_path(reader, "history", map.history);
  read_path(reader, "system", map.system);
  read_path(reader, "id", map.id);
  for (const char* key : {"prompt", "answer", "history"}) {
    if (map.messages && reader.has(key)) {
      reader.problem(key, had_messages ? "the preset takes it from the messages; leave it out"
                                       : "the messages say it already; leave one of the two out");
    }
  }
}

FieldMap empty_map() {
  FieldMap map;
  map.prompt = map.answer = TextTemplate();
  map.task.clear();
  for (std::string* text : {&map.preset, &map.choices, &map.history, &map.system, &map.id, &map.type, &map.spelling}) {
    text->clear();
  }
  return map;
}

FieldMap map_of_preset(const std::string& name) {
  if (name == "promptcblue") {
    return {};
  }
  FieldMap map = empty_map();
  io::JsonReader reader(definition_of(name));
  read_object(reader, map);
  reader.finish();
  map.preset = name;
  map.spelling = ordered_json(name).dump();
  return map;
}

std::string expected_forms() {
  return "expected " + io::joined(field_presets(), ", ") +
         " or an object such as {\"prompt\": \"{question}\", "
         "\"answer\": \"{answer}\", \"task\": \"task\"}";
}

void need_what_is_missing(io::JsonReader& reader, const FieldMap& map) {
  if (map.messages) {
    map.task.empty() ? reader.problem("task", "is missing") : void();
    return;
  }
  if (map.prompt.text().empty() && !reader.has("prompt")) {
    reader.problem("prompt", "is missing; give a template such as \"{question}\", or \"messages\"");
  }
  if (map.answer.text().empty() && !reader.has("answer")) {
    reader.problem("answer", "is missing; give a template such as \"{answer}\"");
  }
  if (map.task.empty() && !reader.has("task")) {
    reader.problem("task", "is missing; give a field's name, {\"constant\": \"NAME\"} or {\"file_name\": true}");
  }
}

/// Names that people give to fields of these meanings.
std::string first_of(const std::vector<std::string>& keys, std::initializer_list<const char*> names) {
  for (const char* name : names) {
    if (std::find(keys.begin(), keys.end(), name) != keys.end()) {
      return name;
    }
  }
  return {};
}

}  // namespace

FieldMap::FieldMap()
    : preset("promptcblue"),
      prompt("{input}"),
      answer("{target}"),
      task{{TaskSource::Kind::field, "task_dataset"}},
      choices("answer_choices"),
      history("history"),
      id("sample_id"),
      type("task_type") {}

const std::vector<std::string>& field_presets() {
  static const std::vector<std::string> names{"promptcblue", "alpaca", "sharegpt", "messages"};
  return names;
}

FieldMap FieldMap::from_json(const ordered_json& json, const std::string& where) {
  const auto known = [](const std::string& name) {
    return std::find(field_presets().begin(), field_presets().end(), name) != field_presets().end();
  };
  if (json.is_string()) {
    const auto name = json.get<std::string>();
    MOELORA_CHECK(known(name), where, ": ", expected_forms(), ", found \"", name, "\"",
                  io::nearest_name(name, field_presets()).empty() ? "" : io::suggestion(name, field_presets()));
    return map_of_preset(name);
  }
  MOELORA_CHECK(json.is_object(), where, ": ", expected_forms(), ", found ",
                json.is_null() ? "null" : json.dump(-1, ' ', false, ordered_json::error_handler_t::replace));
  io::JsonReader reader(json, where);
  FieldMap map = empty_map();
  if (std::string name; reader.read("preset", name)) {
    if (known(name)) {
      map = map_of_preset(name);
    } else {
      reader.problem("preset", "expected one of " + io::joined(field_presets()) + ", found \"" + name + "\"");
    }
  }
  read_object(reader, map);
  need_what_is_missing(reader, map);
  reader.finish();
  for (auto entry = json.begin(); entry != json.end(); ++entry) {
    if (entry.key() != "preset") {
      map.own.push_back(entry.key());
    }
  }
  map.spelling = map.own.empty() ? ordered_json(map.preset).dump() : json.dump();
  return map;
}

FieldMap FieldMap::from_text(const std::string& text) {
  const std::size_t begin = text.find_first_not_of(" \t\r\n");
  if (begin != std::string::npos && text[begin] == '{') {
    return from_json(io::parse_json_text<ordered_json>(text, "--fields"), "--fields");
  }
  std::error_code unknown;
  const bool is_file = std::filesystem::exists(text, unknown);
  if (std::find(field_presets().begin(), field_presets().end(), text) != field_presets().end() || !is_file) {
    MOELORA_CHECK(is_file || text.find_first_of("./") == text.npos, "--fields: ", text, ": no such file");
    return from_json(text, "--fields");
  }
  const ordered_json json = io::read_json_file(text);
  if (!json.is_object() || !json.contains("data")) {
    return from_json(json, text);
  }
  const ordered_json& data = json["data"];
  return data.is_object() && data.contains("fields") ? from_json(data["fields"], text + ": data.fields") : FieldMap();
}

ordered_json FieldMap::to_json() const { return ordered_json::parse(spelling); }

bool FieldMap::is_own(std::string_view key) const { return std::find(own.begin(), own.end(), key) != own.end(); }

FieldMap FieldMap::for_predictions() const {
  FieldMap map = *this;
  if (!is_default()) {
    map.prediction = kPredictionField;
    for (TaskSource& source : map.task) {
      if (source.kind == TaskSource::Kind::file_name) {
        source = {TaskSource::Kind::constant, ""};  // that file's name says nothing of the task
      }
    }
  }
  return map;
}

std::string FieldMap::fallback_task(const std::filesystem::path& file) const {
  for (const TaskSource& source : task) {
    if (source.kind != TaskSource::Kind::field) {
      return source.kind == TaskSource::Kind::constant ? source.text : file.stem().string();
    }
  }
  return "";
}

std::string FieldMap::needed() const {
  std::string text;
  const auto add = [&](const std::string& name) {
    const std::string quoted = '"' + name + '"';
    if (text.find(quoted) == std::string::npos) {
      text += (text.empty() ? "" : ", ") + quoted;
    }
  };
  if (messages) {
    add(messages->list);
  }
  for (const TextTemplate* filled : {&prompt, &answer}) {
    for (const TextTemplate::Field& field : filled->fields()) {
      field.optional ? void() : add(field.name);
    }
  }
  if (task.size() == 1 && task.front().kind == TaskSource::Kind::field) {
    add(task.front().text);
  }
  // "a", "b" and "c"
  const std::size_t comma = text.rfind(", ");
  return comma == std::string::npos ? text : text.substr(0, comma) + " and" + text.substr(comma + 1);
}

std::string suggested_fields(const std::vector<std::string>& keys, const FieldMap& given) {
  const auto has = [&](const char* key) { return std::find(keys.begin(), keys.end(), key) != keys.end(); };
  std::string form;
  if (has("instruction") && has("output")) {
    form = "alpaca";
  } else if (has("conversations")) {
    form = "sharegpt";
  } else if (has("messages")) {
    form = "messages";
  } else if (has("input") && has("target") && has("task_dataset")) {
    form = "promptcblue";
  }
  if (!form.empty()) {
    return form == given.preset
               ? ""
               : "; these are the fields of \"" + form + "\": give data.fields (or --fields) that name";
  }
  const std::string needed = given.needed();
  if (std::any_of(keys.begin(), keys.end(),
                  [&](const std::string& key) { return needed.find('"' + key + '"') != std::string::npos; })) {
    return {};  // the mapping is meant, this record is not whole
  }
  const std::string prompt =
      first_of(keys, {"prompt", "question", "query", "instruction", "input", "text", "sentence", "source"});
  const std::string answer = first_of(
      keys, {"answer", "response", "completion", "output", "target", "label", "summary", "chosen", "translation"});
  if (prompt.empty() || answer.empty()) {
    return "; data.fields (or --fields) says which fields are prompt, answer and task, such as {\"prompt\": "
           "\"{question}\", \"answer\": \"{answer}\", \"task\": {\"file_name\": true}}";
  }
  const std::string task = first_of(keys, {"task", "task_dataset", "dataset", "category", "type"});
  return "; perhaps data.fields (or --fields) of {\"prompt\": \"{" + prompt + "}\", \"answer\": \"{" + answer +
         "}\", \"task\": " + (task.empty() ? R"({"file_name": true})" : '"' + task + '"') + "}";
}

}  // namespace moelora::data
