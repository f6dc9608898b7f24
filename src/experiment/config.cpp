#include "moelora/experiment/config.h"

#include <algorithm>
#include <set>

#include "experiment/config_fields.h"
#include "moelora/eval/scorer.h"
#include "moelora/experiment/method.h"
#include "moelora/io/error.h"

namespace moelora::experiment {
namespace {

using nlohmann::ordered_json;

// Keys of the common sections that say what a method is.
const std::vector<std::string> kRowsOfAdapter{"routing",      "top_k",  "per_linear", "table",
                                              "balance_loss", "prefix", "seed",       "delta"};
const std::vector<std::string> kRowsOfData{"task_prompts", "as_text"};

void refuse_row_keys(io::JsonReader& reader, const char* section, const ordered_json& value,
                     const std::vector<std::string>& keys, const char* advice) {
  for (const std::string& key : keys) {
    if (value.is_object() && value.contains(key)) {
      reader.problem(std::string(section) + "." + key, advice);
    }
  }
}

void take_common(const CommonSections& common, io::JsonReader& reader, ExperimentConfig& config) {
  refuse_row_keys(
      reader, "adapter", common.adapter, kRowsOfAdapter,
      "differs by row, so it can't be common to all; see sparse_top_k, balance_loss, prefix_length and seeds");
  refuse_row_keys(reader, "data", common.data, kRowsOfData,
                  "would change every method; the method lora-full-tp takes the key task_prompts beside this section");
  ordered_json json{{"mode", "adapter"}};
  for (const auto& [section, value] : {std::pair("model", &common.model), std::pair("adapter", &common.adapter),
                                       std::pair("data", &common.data), std::pair("training", &common.training)}) {
    if (!value->is_null()) {
      json[section] = *value;
    }
  }
  try {
    const train::TrainConfig read = train::TrainConfig::from_json(json);
    config.model = read.model;
    config.adapter = read.adapter;
    config.data = read.data;
    config.training = read.training;
  } catch (const Error& error) {
    reader.problem(error.what());
  }
}

void check_methods(const ExperimentConfig& config, io::JsonReader& reader) {
  std::set<std::string> seen;
  for (const std::string& key : config.methods) {
    try {
      const Method& method = find_method(key);
      for (const std::string& needed : method.needs()) {
        if (!config.has(needed)) {
          reader.problem("methods", key + " is made of " + needed + ", which is not listed");
        }
      }
      for (const auto& [place, text] : method.problems(config)) {
        reader.problem(place, text);
      }
    } catch (const Error& error) {
      reader.problem("methods", error.what());
    }
    if (!seen.insert(key).second) {
      reader.problem("methods", key + " is listed twice");
    }
  }
  for (const MethodPtr& method : methods()) {
    for (const SweptNumber& number : method->swept()) {
      if (!config.sweeps.at(number.parameter).empty() && !config.has(method->key())) {
        reader.problem("sweeps." + number.parameter,
                       "is swept with the method " + method->key() + ", which is not listed in methods");
      }
    }
  }
  if (!config.keep_adapters) {
    const auto needs_runs = std::find_if(config.methods.begin(), config.methods.end(), [](const std::string& key) {
      const auto& all = methods();
      return std::any_of(all.begin(), all.end(),
                         [&](const MethodPtr& method) { return method->key() == key && !method->needs().empty(); });
    });
    if (config.costs || !config.new_tasks.tasks.empty() || needs_runs != config.methods.end()) {
      reader.problem(
          "keep_adapters",
          "expected true where cells need the adapters of others: costs, new_tasks, and methods made of other "
          "methods' adapters" +
              (needs_runs != config.methods.end() ? " (" + *needs_runs + ")" : ""));
    }
  }
  const std::string& single = method_with(Role::single).key();
  const std::string& baseline = method_with(Role::baseline).key();
  if (!config.new_tasks.tasks.empty() && !(config.has(single) && config.has(baseline))) {
    reader.problem("new_tasks.tasks",
                   "new tasks are compared with the methods " + single + " and " + baseline + "; list both in methods");
  }
}

void check_seeds(const ExperimentConfig& config, io::JsonReader& reader) {
  if (config.seeds.empty()) {
    reader.problem("seeds", "expected one seed or more");
  }
  for (const auto& [method, own] : config.seeds_of) {
    if (own.empty()) {
      reader.problem("seeds_of", "expected one seed or more for " + method);
    }
    if (const std::string text = io::distinct(own); !text.empty()) {
      reader.problem("seeds_of", text);
    }
  }
}

}  // namespace

ExperimentConfig ExperimentConfig::from_json(const ordered_json& json) {
  ExperimentConfig config;
  config.own = default_own_settings();
  CommonSections common;
  io::JsonReader reader(json);
  io::FieldReader visitor(reader);
  fields(visitor, config, common);
  if (config.methods.empty()) {
    for (const MethodPtr& method : experiment::methods()) {
      config.methods.push_back(method->key());
    }
  }
  take_common(common, reader, config);
  try {
    eval::scorer_from(config.scorer);
  } catch (const Error& error) {
    reader.problem("scorer", error.what());
  }
  check_methods(config, reader);
  check_seeds(config, reader);
  try {
    reader.finish();
  } catch (const Error& error) {
    throw Error(std::string("the experiment's configuration has these problems:\n") + error.what());
  }
  return config;
}

ordered_json ExperimentConfig::to_json() const {
  train::TrainConfig of_training;
  of_training.model = model;
  of_training.adapter = adapter;
  of_training.data = data;
  of_training.training = training;
  ordered_json json = of_training.to_json();
  const auto without = [](ordered_json section, const std::vector<std::string>& keys) {
    for (const std::string& key : keys) {
      section.erase(key);
    }
    return section;
  };
  CommonSections common{json["model"], without(json["adapter"], kRowsOfAdapter), without(json["data"], kRowsOfData),
                        json["training"]};
  ExperimentConfig config = *this;
  io::FieldWriter writer;
  fields(writer, config, common);
  return writer.take();
}

std::string documented_default_experiment() {
  ExperimentConfig config;
  config.own = default_own_settings();
  config.model.path = "FOLDER";
  config.data.train = "FILE";
  config.evaluation = "FILE";
  config.task_prompts = "FILE";
  for (const MethodPtr& method : methods()) {
    config.methods.push_back(method->key());
  }
  return io::documented_json(config.to_json(), experiment_fields(),
                             "// A configuration of `moelora experiment`. Lines of // are comments; --set "
                             "training.steps=100 overrides a key.\n");
}

const std::vector<std::uint64_t>& ExperimentConfig::seeds_for(const std::string& method) const {
  const auto own = seeds_of.find(method);
  return own == seeds_of.end() ? seeds : own->second;
}

bool ExperimentConfig::has(const std::string& method) const {
  return std::find(methods.begin(), methods.end(), method) != methods.end();
}

}  // namespace moelora::experiment
