#include "moelora/train/config.h"

#include <utility>
#include <vector>

#include "moelora/io/error.h"
#include "train/config_fields.h"

namespace moelora::train {
namespace {

using Problems = std::vector<std::pair<std::string, std::string>>;  // key with its sections, text

// What no field shows by itself.

void check_training(const TrainingOptions& options, Problems& problems) {
  if (options.warmup_steps > options.steps) {
    problems.emplace_back("warmup_steps",
                          detail::concat("expected at most steps = ", options.steps, ", found ", options.warmup_steps));
  }
}

void check_model(const ModelSection& model, Mode mode, Problems& problems) {
  if (model.path.empty() == model.init.is_null()) {
    problems.emplace_back("model",
                          "expected either \"path\" (a model folder) or \"init\" (a new model's configuration)");
  }
  if (!model.init.is_null() && !model.init.is_object()) {
    problems.emplace_back("model.init", "expected an object of the model's configuration");
  }
  if (!model.init.is_null() && model.tokenizer.empty()) {
    problems.emplace_back("model.tokenizer", "a new model needs the folder of a tokenizer");
  }
  if (mode == Mode::full && model.dtype == "float16") {
    problems.emplace_back("model.dtype", "all parameters cannot be trained in float16; use float32 or bfloat16");
  }
}

void check_data(const DataSection& data, Problems& problems) {
  if (data.part_of < 1 || data.part_index < 0 || data.part_index >= data.part_of) {
    problems.emplace_back(
        "data.part", detail::concat("expected 0 <= index < of, found index ", data.part_index, " of ", data.part_of));
  }
  if (!data.tasks.empty() && !data.without_tasks.empty()) {
    problems.emplace_back("data.without_tasks", "\"tasks\" names the tasks already; leave one of the two out");
  }
  if (!data.validating().empty() && data.validation_size > 0) {
    problems.emplace_back("data.validation_size", "a validation file is given; leave one of the two out");
  }
}

void check_adapter_from(const TrainConfig& config, Problems& problems) {
  if (config.mode == Mode::new_task && config.adapter_from.empty()) {
    problems.emplace_back("adapter_from",
                          "mode \"new_task\" needs the folder of the trained adapter, such as out/run/adapter");
  } else if (config.mode == Mode::full && !config.adapter_from.empty()) {
    problems.emplace_back("adapter_from", "mode \"full\" trains no adapter; set \"mode\" or leave the key out");
  }
}

void take_adapter(const nlohmann::ordered_json& adapter, io::JsonReader& reader, TrainConfig& config) {
  if (adapter.is_null()) {
    return;
  }
  if (config.mode == Mode::full) {
    reader.problem("adapter", "mode \"full\" trains no adapter; leave the section out");
  } else if (config.mode == Mode::new_task) {
    reader.problem("adapter",
                   "mode \"new_task\" takes the adapter in \"adapter_from\" as it is; leave the section out");
  } else if (!config.adapter_from.empty()) {
    config.adapter_given = adapter;  // compared with that adapter's own when it is read
    if (!adapter.is_object()) {
      reader.problem("adapter", detail::concat("expected an object, found ", adapter.type_name()));
    }
  } else {
    try {
      config.adapter = MoeLoraConfig::from_json(adapter);
    } catch (const Error& error) {
      reader.problem(error.what());
    }
  }
}

/// Keys of the section "training" that stand beside the sections.
void point_to_training(io::JsonReader& reader) {
  io::FieldList training;
  TrainingOptions options;
  fields(training, options);
  for (const auto& [key, field] : training.all) {
    nlohmann::ordered_json ignored;
    if (reader.has(key) && reader.read(key, ignored)) {
      reader.problem(key, "unknown key; it belongs into the section \"training\" (training." + key + ")");
    }
  }
}

}  // namespace

TrainingOptions TrainingOptions::from_json(const nlohmann::ordered_json& json) {
  TrainingOptions options;
  io::JsonReader reader(json, "training");
  io::FieldReader visitor(reader, &train_fields());
  fields(visitor, options);
  Problems problems;
  check_training(options, problems);
  for (const auto& [key, text] : problems) {
    reader.problem(key, text);
  }
  reader.finish();
  return options;
}

nlohmann::ordered_json TrainingOptions::to_json() const {
  TrainingOptions options = *this;
  io::FieldWriter writer;
  fields(writer, options);
  return writer.take();
}

void TrainingOptions::validate() const {
  TrainingOptions options = *this;
  io::FieldChecker checker;
  fields(checker, options);
  check_training(options, checker.problems);
  std::string text;
  for (const auto& [key, problem] : checker.problems) {
    text += "\n  training." + key + ": " + problem;
  }
  MOELORA_CHECK(text.empty(), "the training options are not usable:", text);
}

TrainConfig TrainConfig::from_json(const nlohmann::ordered_json& json) {
  TrainConfig config;
  nlohmann::ordered_json adapter;
  io::JsonReader reader(json);
  point_to_training(reader);
  io::FieldReader visitor(reader, &train_fields());
  fields(visitor, config, adapter);
  take_adapter(adapter, reader, config);
  Problems problems;
  check_adapter_from(config, problems);
  check_model(config.model, config.mode, problems);
  check_data(config.data, problems);
  Problems of_training;
  check_training(config.training, of_training);
  for (const auto& [key, text] : of_training) {
    problems.emplace_back("training." + key, text);
  }
  if (config.mode == Mode::new_task && config.training.weight_decay != 0.0) {
    problems.emplace_back("training.weight_decay",
                          detail::concat("mode \"new_task\" must leave the other tasks' embeddings as they are: "
                                         "expected 0, found ",
                                         config.training.weight_decay));
  }
  for (const auto& [key, text] : problems) {
    reader.problem(key, text);
  }
  try {
    reader.finish();
  } catch (const Error& error) {
    throw Error(std::string("the configuration has these problems:\n") + error.what());
  }
  return config;
}

nlohmann::ordered_json TrainConfig::to_json() const {
  TrainConfig config = *this;
  nlohmann::ordered_json section;
  if (mode == Mode::adapter) {
    section = adapter_from.empty() ? adapter.to_json() : adapter_given;
  }
  io::FieldWriter writer;
  fields(writer, config, section);
  return writer.take();
}

void apply_override(nlohmann::ordered_json& json, const std::string& assignment) {
  const std::size_t equals = assignment.find('=');
  MOELORA_CHECK(equals != std::string::npos && equals > 0, "expected key=value such as training.steps=100, found \"",
                assignment, "\"");
  const std::string path = assignment.substr(0, equals);
  const std::string text = assignment.substr(equals + 1);
  nlohmann::ordered_json* place = &json;
  std::size_t begin = 0;
  for (std::size_t dot = path.find('.'); dot != std::string::npos; dot = path.find('.', begin)) {
    place = &(*place)[path.substr(begin, dot - begin)];
    begin = dot + 1;
    MOELORA_CHECK(place->is_object() || place->is_null(), "cannot set ", path, ": ", path.substr(0, dot),
                  " is no section");
  }
  nlohmann::ordered_json value = nlohmann::ordered_json::parse(text, nullptr, /*allow_exceptions=*/false);
  (*place)[path.substr(begin)] = value.is_discarded() ? nlohmann::ordered_json(text) : std::move(value);
}

}  // namespace moelora::train
