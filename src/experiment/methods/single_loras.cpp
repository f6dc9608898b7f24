#include "experiment/methods/single_loras.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "experiment/grid/bench.h"
#include "moelora/adapter/adapter_file.h"
#include "moelora/adapter/expert_factors.h"
#include "moelora/adapter/lorahub.h"
#include "moelora/io/error.h"
#include "moelora/io/safetensors.h"
#include "moelora/train/trainer.h"

namespace moelora::experiment {

SingleLoras read_single_loras(const Workbench& bench) {
  const std::filesystem::path folder = bench.adapter_of(kSingleRow);
  const AdapterInfo info = read_adapter_info(folder);
  MOELORA_CHECK(info.config.routing == Routing::single, folder.string(),
                ": expected one LoRA for each task (routing \"single\"), found routing \"",
                routing_name(info.config.routing), "\"");
  MOELORA_CHECK(info.base_fingerprint == bench.base.fingerprint, folder.string(),
                " belongs to another base than this experiment's");
  SingleLoras loras{info.config, info.tasks, io::load_safetensors(folder / "adapter.safetensors"), {}, {}};
  ExpertUpdates updates = expert_updates(info.config, loras.tensors);
  loras.linears = std::move(updates.linears);
  loras.of_task = std::move(updates.of_expert);
  return loras;
}

Adapter inject_with(Workbench& bench, const MoeLoraConfig& config, const std::map<std::string, at::Tensor>& tensors) {
  Adapter adapter = inject(*bench.base.model, config, bench.tasks);
  fill_adapter(*adapter, tensors, "the composition");
  return adapter;
}

Adapter inject_table(Workbench& bench, const SingleLoras& loras, std::vector<std::vector<double>> table) {
  MoeLoraConfig config = loras.config;
  config.routing = Routing::table;
  config.table = std::move(table);
  return inject_with(bench, config, loras.tensors);
}

Adapter inject_factors(Workbench& bench, const SingleLoras& loras,
                       const std::vector<std::vector<nn::LowRank>>& updates) {
  std::int64_t rank = 0;
  for (const nn::LowRank& update : updates.front()) {
    rank = std::max(rank, update.rank());
  }
  MoeLoraConfig config = loras.config;
  config.num_experts = static_cast<std::int64_t>(updates.size());
  config.routing = updates.size() == 1 ? Routing::task : Routing::single;
  config.rank = rank * config.num_experts;
  config.alpha = static_cast<double>(config.rank);  // the scale is inside B
  config.dropout = 0.0;
  Adapter adapter = inject(*bench.base.model, config, bench.tasks);
  fill_factors(*adapter, updates);
  return adapter;
}

void fill_factors(AdapterImpl& adapter, const std::vector<std::vector<nn::LowRank>>& updates) {
  // The factors stand in the order of their names, the adapter's linears in that of the model.
  std::map<std::string, std::size_t> places;
  for (const auto& linear : adapter.linears()) {
    places.emplace(linear.name, 0);
  }
  std::size_t next = 0;
  for (auto& [name, place] : places) {
    place = next++;
  }
  for (std::size_t expert = 0; expert < updates.size(); ++expert) {
    std::vector<nn::LowRank> factors;
    for (const auto& linear : adapter.linears()) {
      factors.push_back(updates[expert].at(places.at(linear.name)));
    }
    set_expert_factors(adapter, static_cast<std::int64_t>(expert), factors);
  }
}

std::vector<nn::LowRank> composed_factors(const SingleLoras& loras, const std::vector<double>& weights) {
  std::vector<nn::LowRank> composed;
  for (std::size_t linear = 0; linear < loras.linears.size(); ++linear) {
    std::vector<nn::LowRank> of_linear;
    for (const auto& updates : loras.of_task) {
      of_linear.push_back(updates[linear]);
    }
    composed.push_back(compose_factors(of_linear, weights));
  }
  return composed;
}

double validation_loss_of(Workbench& bench, const AdapterImpl& adapter, const std::vector<data::Example>& validation) {
  return train::validation_loss(*bench.base.model, &adapter, validation, bench.tasks.names(),
                                bench.config.training.micro_batch_tokens)
      .loss;
}

void save_product(const Workbench& bench, const AdapterImpl& adapter, const nlohmann::ordered_json& details) {
  nlohmann::ordered_json provenance = provenance_of(bench);
  provenance["composition"] = details;
  std::filesystem::create_directories(bench.folder / "run");
  save_adapter(adapter, bench.folder / "run" / "adapter", bench.base.fingerprint, bench.base.tokenizer->fingerprint(),
               provenance);
}

}  // namespace moelora::experiment
