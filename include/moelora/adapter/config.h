#pragma once
// What an adapter is, as a typed struct and as JSON.

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

namespace moelora {

/// Where the expert weights ω come from.
enum class Routing {
  task,     ///< softmax of the gate over the task's embedding (MOELoRA)
  uniform,  ///< 1/N for every expert (the paper's "w/o gate")
  token,    ///< softmax of a router over the linear's own input, for each token and linear (MoLoRA, arXiv 2309.05444)
  single,   ///< expert t is task t's own, ω is 1 there and 0 elsewhere: one LoRA per task; N = number of tasks
  table,    ///< fixed numbers, MoeLoraConfig::table: compositions of LoRAs (task arithmetic, LoRAHub)
};

const std::string& routing_name(Routing routing);  ///< As in JSON: "task", "uniform", …

/// The gate of routing "task" (adapter/gate.h).
struct GateConfig {
  std::int64_t top_k = 0;   ///< 0: dense; k: softmax over the k largest logits.
  bool per_linear = false;  ///< One task embedding and gate for each adapted linear instead of one for the model.
  std::int64_t task_embedding_dim = 64;
  /// Rows of the task embedding in front of the tasks' own (1 in adapters read from MOELoRA-peft, whose ids start at
  /// 1).
  std::int64_t reserved_rows = 0;
};

/// The routers of routing "token", one for each adapted linear.
struct RouterConfig {
  /// Weight of the balancing loss N · Σ_i f_i P_i (Switch Transformer, arXiv 2101.03961, eq. 4) of each sample and
  /// linear, beside the cross entropy; f_i: share of the sample's rows whose largest weight is expert i's, P_i: mean
  /// weight of expert i. 0: off.
  double balance_loss = 0.0;
};

/// Trained keys and values in front of every layer's own (P-Tuning v2, adapter/prefix_encoder.h).
struct PrefixConfig {
  std::int64_t length = 0;  ///< P, at least 1.
  bool projection = false;  ///< Values from a small network over an embedding instead of an embedding of their own.
  double dropout = 0.0;     ///< [0, 1), on the values in training; the reference uses 0.1.
};

/// JSON has the fields of `gate` and `router` beside the others, under the names that they have here.
struct MoeLoraConfig {
  std::int64_t rank = 16;        ///< Total rank r; each expert has r/N.
  std::int64_t num_experts = 8;  ///< N; 1 is plain LoRA.
  double alpha = 32.0;           ///< The update is scaled by alpha / rank.
  double dropout = 0.0;          ///< [0, 1), on the input of A.
  Routing routing = Routing::task;
  GateConfig gate;
  RouterConfig router;
  /// Routing::table: ω by task, [K][N]; any finite numbers, not trained.
  std::vector<std::vector<double>> table;
  /// Suffixes of linear names at a component boundary, or full regular expressions (ECMAScript). May be empty with a
  /// prefix.
  std::vector<std::string> targets{"query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"};
  /// Modules of the base, by name or suffix at a component boundary, that are trained whole and saved with the adapter
  /// (a new head); adapter/saved_modules.h. In JSON left out if empty.
  std::vector<std::string> modules_to_save;
  std::uint64_t seed = 0;              ///< Of the initial values.
  std::optional<PrefixConfig> prefix;  ///< In JSON an object "prefix", left out without one.
  std::string delta = "moelora";       ///< What the linears get: a DeltaKind (adapter/delta_kind.h). In JSON left out
                                       ///< if it is this one.

  double scaling() const { return alpha / static_cast<double>(rank); }
  /// Error listing every problem: rank not divisible by num_experts, top_k > num_experts, …  top_k = 1 logs a warning.
  void validate() const;
  static MoeLoraConfig from_json(const nlohmann::ordered_json& json);  ///< Unknown keys: Error with the nearest known.
  nlohmann::ordered_json to_json() const;
};

}  // namespace moelora
