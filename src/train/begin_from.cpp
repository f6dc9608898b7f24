#include "moelora/train/begin_from.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "moelora/adapter/adapter_file.h"
#include "moelora/io/error.h"
#include "moelora/io/fingerprint.h"
#include "moelora/log/log.h"

namespace moelora::train {
namespace {

void add_name(std::string& list, const std::string& name) { list += (list.empty() ? "" : ", ") + name; }

}  // namespace

void take_adapter_config(TrainConfig& config) {
  if (config.mode != Mode::adapter || config.adapter_from.empty()) {
    return;
  }
  const MoeLoraConfig trained = read_adapter_info(config.adapter_from).config;
  if (config.adapter_given.is_object()) {
    const nlohmann::ordered_json own = trained.to_json();
    nlohmann::ordered_json asked = own;
    asked.update(config.adapter_given);
    const nlohmann::ordered_json wanted = MoeLoraConfig::from_json(asked).to_json();
    std::string problems;
    for (const auto& given : config.adapter_given.items()) {
      const std::string& key = given.key();
      const auto text = [&](const nlohmann::ordered_json& json) {
        return json.contains(key) ? json[key].dump() : std::string("nothing");
      };
      if (text(own) != text(wanted)) {
        problems += "\n  adapter." + key + ": that adapter has " + text(own) + ", found " + text(wanted);
      }
    }
    MOELORA_CHECK(problems.empty(), "a run that begins with the adapter in ", config.adapter_from,
                  " has that adapter's configuration:", problems,
                  "\nleave these keys out, or train a new adapter without adapter_from");
  }
  config.adapter = trained;
}

Adapter load_to_train_on(torch::nn::Module& base, const std::filesystem::path& folder,
                         const std::vector<data::Record>& records, const std::string& base_fingerprint,
                         const std::string& tokenizer_fingerprint, const std::string& name) {
  const TaskNames known = read_adapter_info(folder).tasks;
  const std::vector<std::string> found = data::task_names_of(records);
  std::string unknown;
  for (const std::string& task : found) {
    if (!known.contains(task)) {
      add_name(unknown, task);
    }
  }
  std::string all;
  std::string without_records;
  for (const std::string& task : known.names()) {
    add_name(all, task);
    if (std::find(found.begin(), found.end(), task) == found.end()) {
      add_name(without_records, task);
    }
  }
  MOELORA_CHECK(unknown.empty(), "the adapter in ", folder.string(),
                " does not have the tasks of some records: ", unknown, " (it has ", all,
                "); leave them out with data.without_tasks, add one with mode \"new_task\", or train a new adapter");
  if (!without_records.empty()) {
    log::warning("no training record is of these tasks of the adapter in " + folder.string() + ": " + without_records +
                 "; their answers change all the same, because the tasks share their experts");
  }
  return load_adapter(base, folder, base_fingerprint, tokenizer_fingerprint, name);
}

std::string fingerprint_of(const AdapterImpl& adapter) {
  io::NamedTensors tensors;
  for (const auto& [name, tensor] : adapter_tensors(adapter)) {
    tensors.emplace_back(name, tensor.detach());
  }
  return io::fingerprint(tensors);
}

}  // namespace moelora::train
