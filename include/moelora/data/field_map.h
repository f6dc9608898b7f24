#pragma once
// Which fields of a record are its prompt, answer, task and choices: what `data.fields` and `--fields` say. As JSON a
// preset's name, or an object:
//
//   {"preset": "alpaca",                  what the other keys do not say; without it, nothing
//    "prompt": "{instruction}\n{input?}",  a template (data/text_template.h)
//    "answer": "{output}",                a template
//    "task": "category",                  a field, {"constant": "NAME"}, {"file_name": true} (without its extension),
//                                         or a list of them: the first that the record has
//    "choices": "options",                a field: list of the possible answers
//    "history": "history",                a field: earlier rounds, [[question, answer], …]
//    "system": "system",                  a field: text that comes before a conversation
//    "id": "id",                          a field: the record's name in messages
//    "messages": {"list": "conversations", "role": "from", "content": "value",
//                 "user": ["human"], "assistant": ["gpt"], "system": ["system"]}}   instead of prompt and answer
//
// Fields may be paths, as in templates. Templates of one's own take numbers and true and false too, as JSON writes
// them; presets take strings alone. With "messages" the last assistant's turn is the answer, the user's before it the
// prompt and whole rounds before that the history; a record that ends with a user's turn has no answer.
//
// Presets:
//   promptcblue  input, target, task_dataset, answer_choices, history, sample_id, task_type
//   alpaca       instruction and input (which may be absent) in two lines, output
//   sharegpt     conversations, each with from (human or user, gpt or assistant, system) and value
//   messages     messages, each with role (user, assistant, system) and content
// The last three also take task, choices, system and id where a record has them, alpaca history too; the task of a
// record without one is the preset's name.

#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "moelora/data/text_template.h"

namespace moelora::data {

/// Where a model's answer to a mapped record is written.
inline constexpr const char* kPredictionField = "prediction";

struct TaskSource {
  enum class Kind { field, constant, file_name };
  Kind kind = Kind::field;
  std::string text;  ///< The field's path or the constant.
};

/// Where a conversation stands in a record, and what its roles are called.
struct MessageFields {
  std::string list;
  std::string role;
  std::string content;
  std::vector<std::string> user;
  std::vector<std::string> assistant;
  std::vector<std::string> system;
};

struct FieldMap {
  std::string preset;                     ///< The preset that says what `own` does not; may be empty.
  TextTemplate prompt;                    ///< Without `messages`.
  TextTemplate answer;                    ///< Without `messages`.
  std::optional<MessageFields> messages;  ///< Instead of both.
  std::vector<TaskSource> task;           ///< The first that the record has.
  std::string choices;                    ///< Fields; empty: none.
  std::string history;
  std::string system;
  std::string id;
  std::string type;        ///< task_type, which scores nothing
  std::string prediction;  ///< If not empty: the field that holds the answer, whatever `answer` or `messages` say.
  /// Keys of the object that it was read from: what these name must be in the data.
  std::vector<std::string> own;
  std::string spelling = R"("promptcblue")";  ///< The JSON that it was read from.

  FieldMap();  ///< promptcblue
  /// A preset's name or an object. Error listing all problems: unknown keys, wrong types, broken templates, a template
  /// without fields, both messages and prompt, no prompt, no answer, no task.
  static FieldMap from_json(const nlohmann::ordered_json& json, const std::string& where = "fields");
  /// A preset's name, JSON text, or a file of it: a file of fields, or a configuration whose data.fields are taken.
  static FieldMap from_text(const std::string& text);
  nlohmann::ordered_json to_json() const;

  bool is_default() const { return own.empty() && preset == "promptcblue"; }
  bool is_own(std::string_view key) const;  ///< Whether the object said this key itself.
  /// The same with the answer in kPredictionField, where write_predictions() puts it, and no task where the data file's
  /// name says it; promptcblue as it is.
  FieldMap for_predictions() const;
  /// The task of a record of that file whose fields name none; empty: there is none.
  std::string fallback_task(const std::filesystem::path& file) const;
  /// `"instruction", "output"`: what a record must have.
  std::string needed() const;
  bool operator==(const FieldMap& other) const { return spelling == other.spelling; }
};

const std::vector<std::string>& field_presets();  ///< Their names.

/// The mapping that would read records with these keys, as advice in an error ("; …"), or nothing where `given` is
/// meant.
std::string suggested_fields(const std::vector<std::string>& keys, const FieldMap& given);

}  // namespace moelora::data
