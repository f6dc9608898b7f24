#include <ATen/ATen.h>

#include <nlohmann/json.hpp>

#include "adapter/formats/adapter_loading.h"
#include "adapter/formats/foreign_config.h"
#include "adapter/formats/pickle_file.h"
#include "adapter/formats/task_lora.h"
#include "moelora/adapter/expert_factors.h"
#include "moelora/adapter/foreign.h"
#include "moelora/io/atomic_file.h"
#include "moelora/io/error.h"
#include "moelora/io/json_file.h"
#include "moelora/io/safetensors.h"

namespace moelora {
namespace {

constexpr const char* kForeignConfigFile = "adapter_config.json";
constexpr const char* kForeignTensorFile = "adapter_model.safetensors";
constexpr const char* kForeignPickleFile = "adapter_model.bin";

void write_foreign(const std::filesystem::path& folder, const nlohmann::ordered_json& config,
                   const io::NamedTensors& tensors, bool with_pickle) {
  check_replaceable(folder, {kForeignConfigFile, kForeignTensorFile, kForeignPickleFile});
  require_finite_export(tensors);
  io::AtomicFolder target(folder);
  io::save_safetensors(target.path() / kForeignTensorFile, tensors, {{"format", "pt"}});
  if (with_pickle) {
    save_pickle_file(target.path() / kForeignPickleFile, tensors);
  }
  io::write_json_file(target.path() / kForeignConfigFile, config);
  target.commit();
}

/// Task embedding and gate; a row for the id 0, which is no task there, is put in front if the adapter has none.
void add_foreign_gate(const TaskGate& gate, const MoeLoraConfig& config, const std::string& prefix,
                      io::NamedTensors& tensors) {
  at::Tensor embedding = exported(gate->task_embedding);
  if (config.gate.reserved_rows == 0) {
    embedding = at::cat({at::zeros({1, embedding.size(1)}), embedding});
  }
  tensors.emplace_back(prefix + "lora_task_embedding.weight", embedding);
  tensors.emplace_back(prefix + "lora_gate.GateL.weight", exported(gate->weight));
}

}  // namespace

void export_peft(const AdapterImpl& adapter, std::string_view task, const std::filesystem::path& folder,
                 const std::string& base, std::int64_t padded_rank) {
  const TaskLora lora = task_lora(adapter, task, padded_rank);
  io::NamedTensors tensors;
  for (const TaskLoraLinear& linear : lora.linears) {
    const std::string prefix = foreign_prefix(linear.name);
    tensors.emplace_back(prefix + "lora_A.weight", linear.A);
    tensors.emplace_back(prefix + "lora_B.weight", linear.B);
  }
  MoeLoraConfig config = adapter.config();
  config.rank = lora.rank;
  config.alpha = lora.alpha;
  auto json = shared_foreign_settings(adapter, config);
  json["base_model_name_or_path"] = base;
  json["alpha_pattern"] = nlohmann::ordered_json::object();
  json["layers_to_transform"] = nullptr;
  json["peft_type"] = "LORA";
  json["rank_pattern"] = nlohmann::ordered_json::object();
  json["revision"] = nullptr;
  json["task_type"] = "CAUSAL_LM";
  json["use_dora"] = false;
  json["use_rslora"] = false;
  write_foreign(folder, json, tensors, /*with_pickle=*/false);
}

void export_moelora_peft(const AdapterImpl& adapter, const std::filesystem::path& folder, const std::string& base) {
  require_exportable(adapter);
  const auto& config = adapter.config();
  MOELORA_CHECK(config.gate.top_k == 0 || config.gate.top_k == config.num_experts,
                "MOELoRA-peft has no top_k (this adapter's is ", config.gate.top_k,
                "); export single tasks to PEFT instead");
  MOELORA_CHECK(!adapter.gates().empty(), "MOELoRA-peft always has a gate, this adapter has none (",
                config.num_experts == 1 ? "one expert" : routing_name(config.routing) + " routing",
                "); export it to PEFT instead");
  MOELORA_CHECK(config.gate.reserved_rows <= 1, "MOELoRA-peft reserves one row of the task embedding, this adapter ",
                config.gate.reserved_rows, "; export single tasks to PEFT instead");
  io::NamedTensors tensors;
  std::vector<std::vector<nn::LowRank>> experts;  // [N][linears]
  for (std::int64_t expert = 0; expert < config.num_experts; ++expert) {
    experts.push_back(expert_factors(adapter, expert));
  }
  for (std::size_t i = 0; i < adapter.linears().size(); ++i) {
    const std::string prefix = foreign_prefix(adapter.linears()[i].name);
    for (std::size_t expert = 0; expert < experts.size(); ++expert) {
      const at::Tensor a = exported(experts[expert][i].A);
      const at::Tensor b = exported(experts[expert][i].B);
      // The reference registers each factor twice, and looks for both names.
      for (const auto* alias : {".weight", ".mlp.weight"}) {
        tensors.emplace_back(detail::concat(prefix, "lora_A.loraA.", expert, alias), a);
        tensors.emplace_back(detail::concat(prefix, "lora_B.loraB.", expert, alias), b);
      }
    }
    if (config.gate.per_linear) {
      add_foreign_gate(adapter.gates()[i], config, prefix, tensors);
    }
  }
  if (!config.gate.per_linear) {
    add_foreign_gate(adapter.gates().front(), config, "", tensors);
  }
  auto json = shared_foreign_settings(adapter, config);
  json["base_model_name_or_path"] = base;
  json["expert_num"] = config.num_experts;
  json["peft_type"] = config.gate.per_linear ? "MMOELORA" : "MMOELORAS";
  json["task_embedding_dim"] = config.gate.task_embedding_dim;
  json["task_names"] = adapter.tasks().names();  // the reference knows ids only and ignores other keys
  json["task_num"] = adapter.tasks().size();
  json["task_type"] = config.gate.per_linear ? "CAUSAL_LM" : "CAUSAL_LMS";
  write_foreign(folder, json, tensors, /*with_pickle=*/true);  // the reference reads no safetensors
}

}  // namespace moelora
