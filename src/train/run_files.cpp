#include "train/run_files.h"

#include <ATen/core/grad_mode.h>

#include <nlohmann/json.hpp>
#include <set>

#include "moelora/adapter/adapter_file.h"
#include "moelora/io/atomic_file.h"
#include "moelora/io/error.h"
#include "moelora/io/sha256.h"

namespace moelora::train {
namespace {

constexpr const char* kAdapterFolder = "adapter";
constexpr const char* kParametersFile = "parameters.safetensors";
constexpr const char* kOptimizerFile = "optimizer.safetensors";

void save_adapter_of(const TrainInputs& inputs, const std::vector<RunChange>& changes,
                     const std::filesystem::path& folder) {
  nlohmann::ordered_json provenance = inputs.provenance;
  if (!changes.empty() && (provenance.is_null() || provenance.is_object())) {
    provenance["changes"] = changes_to_json(changes);
  }
  save_adapter(*inputs.adapter, folder, inputs.base_fingerprint, inputs.tokenizer_fingerprint, provenance);
}

}  // namespace

io::NamedTensors trained_parameters(const model::CausalLM& model, const AdapterImpl* adapter, bool new_task_only) {
  io::NamedTensors parameters;
  if (adapter != nullptr) {
    parameters = adapter_tensors(*adapter);
    if (new_task_only) {
      std::erase_if(parameters, [](const auto& named) { return !named.first.ends_with(".task_embedding"); });
    }
    return parameters;
  }
  std::set<const void*> seen;
  for (const auto& parameter : model.named_parameters()) {
    if (seen.insert(parameter.value().unsafeGetTensorImpl()).second) {
      parameters.emplace_back(parameter.key(), parameter.value());
    }
  }
  return parameters;
}

std::vector<double> learning_rate_ratios(const io::NamedTensors& trained, const AdapterImpl* adapter,
                                         double gate_ratio) {
  std::vector<double> ratios;
  for (const auto& [name, tensor] : trained) {
    ratios.push_back(adapter != nullptr && is_routing_tensor(name) ? gate_ratio : 1.0);
  }
  return ratios;
}

void save_checkpoint_tensors(const TrainInputs& inputs, const std::vector<RunChange>& changes, const AdamW& optimizer,
                             const std::filesystem::path& folder) {
  if (inputs.adapter != nullptr) {
    save_adapter_of(inputs, changes, folder / kAdapterFolder);
  } else {
    io::save_safetensors(folder / kParametersFile, optimizer.parameters());
  }
  io::save_safetensors(folder / kOptimizerFile, optimizer.state());
}

void load_trained_parameters(const TrainInputs& inputs, const std::filesystem::path& folder) {
  if (inputs.adapter != nullptr) {
    const std::filesystem::path file = folder / kAdapterFolder / "adapter.safetensors";
    fill_adapter(*inputs.adapter, io::load_safetensors(file), file.string());
    return;
  }
  at::NoGradGuard no_grad;
  const std::map<std::string, at::Tensor> tensors = io::load_safetensors(folder / kParametersFile);
  for (const auto& [name, parameter] : trained_parameters(inputs.model, inputs.adapter, inputs.new_task_only)) {
    const auto found = tensors.find(name);
    MOELORA_CHECK(found != tensors.end() && found->second.sizes() == parameter.sizes(), folder.string(), ": expected ",
                  name, " with shape ", parameter.sizes(), "; resume with the model that the run began with");
    at::Tensor target = parameter;
    target.copy_(found->second);
  }
}

void load_optimizer(AdamW& optimizer, const std::filesystem::path& folder) {
  optimizer.load_state(io::load_safetensors(folder / kOptimizerFile));
}

std::filesystem::path save_result(const TrainInputs& inputs, const std::vector<RunChange>& changes,
                                  const Callbacks& callbacks, bool writes) {
  const std::filesystem::path path = inputs.output / (inputs.adapter != nullptr ? "adapter" : "model");
  if (writes && inputs.adapter != nullptr) {
    save_adapter_of(inputs, changes, path);
  } else if (writes) {
    io::AtomicFolder folder(path);
    callbacks.save_model(folder.path());
    folder.commit();
  }
  return path;
}

std::string examples_hash(const std::vector<data::Example>& train, const std::vector<data::Example>& validation) {
  io::Sha256 hash;
  for (const auto* examples : {&train, &validation}) {
    const std::uint64_t count = examples->size();
    hash.update(&count, sizeof count);
    for (const data::Example& example : *examples) {
      const std::int64_t head[] = {example.task, example.label_begin, example.length()};
      hash.update(head, sizeof head).update(example.ids.data(), example.ids.size() * sizeof example.ids[0]);
      if (example.weight != 1.0) {
        hash.update(&example.weight, sizeof example.weight);
      }
    }
  }
  return hash.hex();
}

}  // namespace moelora::train
