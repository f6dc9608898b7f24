#include "experiment/methods/single_loras.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "moelora/adapter/adapter_file.h"
#include "moelora/adapter/lorahub.h"
#include "moelora/io/error.h"
#include "moelora/io/provenance.h"
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
  const std::string prefix = "linears.";
  for (const auto& [name, tensor] : loras.tensors) {
    if (name.starts_with(prefix) && name.ends_with(".A")) {
      loras.linears.push_back(name.substr(prefix.size(), name.size() - prefix.size() - 2));
    }
  }
  const auto rank = info.config.rank / info.config.num_experts;
  for (std::int64_t task = 0; task < info.tasks.size(); ++task) {
    std::vector<nn::LowRank>& updates = loras.of_task.emplace_back();
    for (const std::string& linear : loras.linears) {
      const at::Tensor A = loras.tensors.at(prefix + linear + ".A").narrow(0, task * rank, rank);
      const at::Tensor B = loras.tensors.at(prefix + linear + ".B").narrow(1, task * rank, rank);
      updates.push_back({A.contiguous(), B * info.config.scaling()});
    }
  }
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
    rank = std::max(rank, update.A.size(0));
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
  at::NoGradGuard no_grad;
  const auto rank = adapter.config().rank / adapter.config().num_experts;
  // The factors stand in the order of their names, the adapter's linears in that of the model.
  std::map<std::string, std::size_t> places;
  for (const auto& linear : adapter.linears()) {
    places.emplace(linear.name, 0);
  }
  std::size_t next = 0;
  for (auto& [name, place] : places) {
    place = next++;
  }
  for (const auto& linear : adapter.linears()) {
    linear.delta->A.zero_();
    linear.delta->B.zero_();
    for (std::size_t expert = 0; expert < updates.size(); ++expert) {
      const nn::LowRank& update = updates[expert].at(places.at(linear.name));
      const auto begin = static_cast<std::int64_t>(expert) * rank;
      linear.delta->A.narrow(0, begin, update.A.size(0)).copy_(update.A);
      linear.delta->B.narrow(1, begin, update.B.size(1)).copy_(update.B);
    }
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
  nlohmann::ordered_json provenance = io::provenance();
  provenance["composition"] = details;
  std::filesystem::create_directories(bench.folder / "run");
  save_adapter(adapter, bench.folder / "run" / "adapter", bench.base.fingerprint, bench.base.tokenizer->fingerprint(),
               provenance);
}

}  // namespace moelora::experiment
