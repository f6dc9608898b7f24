#include "moelora/train/config.h"

#include <cmath>
#include <utility>
#include <vector>

#include "moelora/io/error.h"
#include "moelora/io/json_reader.h"
#include "train/foreign_keys.h"

namespace moelora::train {
namespace {

using Problems = std::vector<std::pair<std::string, std::string>>;  // key, text

const std::vector<std::string> kModes{"adapter", "full", "new_task"};
const std::vector<std::string> kSchedules{"linear", "cosine", "constant"};
const std::vector<std::string> kBatchings{"random", "by_task"};
const std::vector<std::string> kDtypes{"auto", "float32", "float16", "bfloat16"};

template <typename Enum>
void read_enum(io::JsonReader& reader, const char* key, const std::vector<std::string>& names, Enum& value) {
  std::size_t index = 0;
  if (reader.read_choice(key, names, index)) {
    value = static_cast<Enum>(index);
  }
}

template <typename Enum>
const std::string& enum_name(const std::vector<std::string>& names, Enum value) {
  return names[static_cast<std::size_t>(value)];
}

Problems problems_of_training(const TrainingOptions& options) {
  Problems problems;
  const auto at_least = [&](const char* key, auto value, auto least) {
    if (!(value >= least)) {  // also for NaN
      problems.emplace_back(key, detail::concat("expected at least ", least, ", found ", value));
    }
  };
  const auto at_most = [&](const char* key, std::int64_t value, std::int64_t most) {
    if (value > most) {
      problems.emplace_back(key, detail::concat("expected at most ", most, ", found ", value));
    }
  };
  const auto fraction = [&](const char* key, double value) {
    if (!(value >= 0.0 && value < 1.0)) {
      problems.emplace_back(key, detail::concat("expected 0 or more and below 1, found ", value));
    }
  };
  at_least("steps", options.steps, 1);
  at_least("batch_size", options.batch_size, 1);
  at_most("batch_size", options.batch_size, 1'000'000);
  at_least("micro_batch_tokens", options.micro_batch_tokens, 1);
  at_least("memory_budget_gb", options.memory_budget_gb, 0.0);
  at_least("learning_rate", options.learning_rate, 0.0);
  at_least("weight_decay", options.weight_decay, 0.0);
  fraction("beta1", options.beta1);
  fraction("beta2", options.beta2);
  if (!(options.epsilon > 0.0)) {
    problems.emplace_back("epsilon", detail::concat("expected more than 0, found ", options.epsilon));
  }
  at_least("warmup_steps", options.warmup_steps, 0);
  if (options.warmup_steps > options.steps) {
    problems.emplace_back("warmup_steps",
                          detail::concat("expected at most steps = ", options.steps, ", found ", options.warmup_steps));
  }
  at_least("max_grad_norm", options.max_grad_norm, 0.0);
  at_least("log_every", options.log_every, 1);
  at_least("validate_every", options.validate_every, 0);
  at_least("checkpoint_every", options.checkpoint_every, 1);
  at_least("keep_checkpoints", options.keep_checkpoints, 1);
  at_least("threads", options.threads, 0);
  // Far beyond any use: steps · batch_size counts samples in 64 bits.
  at_most("steps", options.steps, std::int64_t{1} << 38);
  at_most("threads", options.threads, 4096);
  return problems;
}

void read_training(io::JsonReader& reader, TrainingOptions& options) {
  point_to_our_keys(reader);
  reader.read("steps", options.steps);
  reader.read("batch_size", options.batch_size);
  reader.read("micro_batch_tokens", options.micro_batch_tokens);
  reader.read("memory_budget_gb", options.memory_budget_gb);
  reader.read("learning_rate", options.learning_rate);
  reader.read("weight_decay", options.weight_decay);
  reader.read("beta1", options.beta1);
  reader.read("beta2", options.beta2);
  reader.read("epsilon", options.epsilon);
  reader.read("warmup_steps", options.warmup_steps);
  read_enum(reader, "schedule", kSchedules, options.schedule);
  reader.read("max_grad_norm", options.max_grad_norm);
  reader.read("seed", options.seed);
  read_enum(reader, "batching", kBatchings, options.batching);
  reader.read("log_every", options.log_every);
  reader.read("validate_every", options.validate_every);
  reader.read("checkpoint_every", options.checkpoint_every);
  reader.read("keep_checkpoints", options.keep_checkpoints);
  reader.read("threads", options.threads);
  for (const auto& [key, text] : problems_of_training(options)) {
    reader.problem(key, text);
  }
}

void read_model(io::JsonReader reader, Mode mode, ModelSection& model) {
  reader.read("path", model.path);
  reader.read("init", model.init);
  reader.read("tokenizer", model.tokenizer);
  reader.read("seed", model.seed);
  std::size_t dtype = 0;
  if (reader.read_choice("dtype", kDtypes, dtype)) {
    model.dtype = kDtypes[dtype];
  }
  reader.read("device", model.device);
  if (model.path.empty() == model.init.is_null()) {
    reader.problem("expected either \"path\" (a model folder) or \"init\" (a new model's configuration)");
  }
  if (!model.init.is_null() && !model.init.is_object()) {
    reader.problem("init", "expected an object of the model's configuration");
  }
  if (!model.init.is_null() && model.tokenizer.empty()) {
    reader.problem("tokenizer", "a new model needs the folder of a tokenizer");
  }
  if (mode == Mode::full && (model.dtype == "float16")) {
    reader.problem("dtype", "all parameters cannot be trained in float16; use float32 or bfloat16");
  }
}

void read_data(io::JsonReader reader, DataSection& data) {
  reader.read("train", data.train);
  reader.read_or_null("validation", data.validation);
  reader.read("validation_size", data.validation_size);
  io::JsonReader part = reader.child("part");
  part.read("index", data.part_index);
  part.read("of", data.part_of);
  if (data.part_of < 1 || data.part_index < 0 || data.part_index >= data.part_of) {
    part.problem(detail::concat("expected 0 <= index < of, found index ", data.part_index, " of ", data.part_of));
  }
  reader.read("tasks", data.tasks);
  reader.read("without_tasks", data.without_tasks);
  reader.read("max_records", data.max_records);
  reader.read("as_text", data.as_text);
  if (!data.tasks.empty() && !data.without_tasks.empty()) {
    reader.problem("without_tasks", "\"tasks\" names the tasks already; leave one of the two out");
  }
  if (data.max_records < 0) {
    reader.problem("max_records", detail::concat("expected 0 (all) or more, found ", data.max_records));
  }
  reader.read_or_null("task_prompts", data.task_prompts);
  reader.read("deduplicate", data.deduplicate);
  reader.read("max_source_length", data.encode.max_source_length);
  reader.read("max_target_length", data.encode.max_target_length);
  std::size_t cut = 0;
  if (reader.read_choice("cut", data::cut_names(), cut)) {
    data.encode.cut = static_cast<data::Cut>(cut);
  }
  reader.read("source_prefix", data.encode.source_prefix);
  reader.read("with_history", data.encode.with_history);
  if (data.train.empty()) {
    reader.problem("train", "the file of training records is missing");
  }
  if (!data.validation.empty() && data.validation_size > 0) {
    reader.problem("validation_size", "a validation file is given; leave one of the two out");
  }
  if (data.validation_size < -1) {
    reader.problem("validation_size", detail::concat("expected 0 or more, found ", data.validation_size));
  }
  if (data.encode.max_source_length < 3) {
    reader.problem("max_source_length", detail::concat("expected at least 3, found ", data.encode.max_source_length));
  }
  if (data.encode.max_target_length < 3) {
    reader.problem("max_target_length", detail::concat("expected at least 3, found ", data.encode.max_target_length));
  }
}

void read_adapter(io::JsonReader& reader, TrainConfig& config) {
  nlohmann::ordered_json adapter;
  if (reader.read("adapter", adapter) && !adapter.is_null()) {
    if (config.mode == Mode::full) {
      reader.problem("adapter", "mode \"full\" trains no adapter; leave the section out");
    } else if (config.mode == Mode::new_task) {
      reader.problem("adapter",
                     "mode \"new_task\" takes the adapter in \"adapter_from\" as it is; leave the section out");
    } else if (reader.has("adapter_from")) {
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
  reader.read_or_null("adapter_from", config.adapter_from);
  if (config.mode == Mode::new_task && config.adapter_from.empty()) {
    reader.problem("adapter_from",
                   "mode \"new_task\" needs the folder of the trained adapter, such as out/run/adapter");
  } else if (config.mode == Mode::full && !config.adapter_from.empty()) {
    reader.problem("adapter_from", "mode \"full\" trains no adapter; set \"mode\" or leave the key out");
  }
}

nlohmann::ordered_json model_to_json(const ModelSection& model) {
  nlohmann::ordered_json json = nlohmann::ordered_json::object();
  if (model.init.is_null()) {
    json["path"] = model.path;
  } else {
    json["init"] = model.init;
  }
  if (!model.tokenizer.empty()) {
    json["tokenizer"] = model.tokenizer;
  }
  json["seed"] = model.seed;
  json["dtype"] = model.dtype;
  json["device"] = model.device;
  return json;
}

nlohmann::ordered_json data_to_json(const DataSection& data) {
  nlohmann::ordered_json json{{"train", data.train}, {"validation", nullptr}};
  if (data.validation.empty()) {
    json["validation_size"] = data.validation_size;
  } else {
    json["validation"] = data.validation;
  }
  json["part"] = {{"index", data.part_index}, {"of", data.part_of}};
  json["tasks"] = data.tasks;
  json["without_tasks"] = data.without_tasks;
  json["max_records"] = data.max_records;
  json["as_text"] = data.as_text;
  json["task_prompts"] = data.task_prompts;
  json["deduplicate"] = data.deduplicate;
  json["max_source_length"] = data.encode.max_source_length;
  json["max_target_length"] = data.encode.max_target_length;
  json["cut"] = data::cut_name(data.encode.cut);
  json["source_prefix"] = data.encode.source_prefix;
  json["with_history"] = data.encode.with_history;
  return json;
}

}  // namespace

TrainingOptions TrainingOptions::from_json(const nlohmann::ordered_json& json) {
  TrainingOptions options;
  io::JsonReader reader(json, "training");
  read_training(reader, options);
  reader.finish();
  return options;
}

nlohmann::ordered_json TrainingOptions::to_json() const {
  return {{"steps", steps},
          {"batch_size", batch_size},
          {"micro_batch_tokens", micro_batch_tokens},
          {"memory_budget_gb", memory_budget_gb},
          {"learning_rate", learning_rate},
          {"weight_decay", weight_decay},
          {"beta1", beta1},
          {"beta2", beta2},
          {"epsilon", epsilon},
          {"warmup_steps", warmup_steps},
          {"schedule", enum_name(kSchedules, schedule)},
          {"max_grad_norm", max_grad_norm},
          {"seed", seed},
          {"batching", enum_name(kBatchings, batching)},
          {"log_every", log_every},
          {"validate_every", validate_every},
          {"checkpoint_every", checkpoint_every},
          {"keep_checkpoints", keep_checkpoints},
          {"threads", threads}};
}

void TrainingOptions::validate() const {
  std::string text;
  for (const auto& [key, problem] : problems_of_training(*this)) {
    text += "\n  training." + key + ": " + problem;
  }
  MOELORA_CHECK(text.empty(), "the training options are not usable:", text);
}

TrainConfig TrainConfig::from_json(const nlohmann::ordered_json& json) {
  TrainConfig config;
  io::JsonReader reader(json);
  point_to_our_keys(reader);
  point_to_training(reader, TrainingOptions().to_json());
  read_enum(reader, "mode", kModes, config.mode);
  read_model(reader.child("model"), config.mode, config.model);
  read_adapter(reader, config);
  read_data(reader.child("data"), config.data);
  io::JsonReader training = reader.child("training");
  read_training(training, config.training);
  if (config.mode == Mode::new_task && config.training.weight_decay != 0.0) {
    training.problem("weight_decay", detail::concat("mode \"new_task\" must leave the other tasks' embeddings as they "
                                                    "are: expected 0, found ",
                                                    config.training.weight_decay));
  }
  try {
    reader.finish();
  } catch (const Error& error) {
    throw Error(std::string("the configuration has these problems:\n") + error.what());
  }
  return config;
}

nlohmann::ordered_json TrainConfig::to_json() const {
  nlohmann::ordered_json json{{"mode", enum_name(kModes, mode)}, {"model", model_to_json(model)}};
  if (mode == Mode::adapter && adapter_from.empty()) {
    json["adapter"] = adapter.to_json();
  } else if (mode == Mode::adapter && adapter_given.is_object()) {
    json["adapter"] = adapter_given;
  }
  if (!adapter_from.empty()) {
    json["adapter_from"] = adapter_from;
  }
  json["data"] = data_to_json(data);
  json["training"] = training.to_json();
  return json;
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
