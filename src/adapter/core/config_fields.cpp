#include "moelora/adapter/config_fields.h"

namespace moelora {
namespace {

const std::vector<std::string> kRoutings{"task", "uniform", "token", "single",
                                         "table"};  // in the order of enum Routing

void gate_fields(io::FieldVisitor& visit, GateConfig& gate) {
  visit({"top_k", "0: all experts; k: only those of the k largest logits"}, gate.top_k);
  visit({"per_linear", "a gate for each adapted linear instead of one for the model"}, gate.per_linear);
  visit({"task_embedding_dim", "numbers of a task's embedding"}, gate.task_embedding_dim);
  visit({"reserved_rows", "rows in front of the tasks' embeddings; 1 in adapters read from MOELoRA-peft"},
        gate.reserved_rows);
}

void router_fields(io::FieldVisitor& visit, RouterConfig& router, bool written) {
  visit({.key = "balance_loss",
         .meaning = "routing token: weight of the balancing loss; 0: off",
         .written = written,
         .example = "0.01"},
        router.balance_loss);
}

void prefix_fields(io::FieldVisitor& visit, std::optional<PrefixConfig>& prefix) {
  PrefixConfig values = prefix.value_or(PrefixConfig());
  visit.section(
      {.key = "prefix",
       .meaning = "trained keys and values in front of every layer's own (P-Tuning v2); such adapters don't merge",
       .written = prefix.has_value(),
       .example = R"({"length": 16, "projection": false, "dropout": 0.1})"},
      [&](io::FieldVisitor& section) {
        section({"length", "positions"}, values.length);
        section({"projection", "values from a small network over an embedding"}, values.projection);
        section({"dropout", "on the values, 0 or more and below 1"}, values.dropout);
      });
  if (values.length != 0 || values.projection || values.dropout != 0) {  // a length of 0 is no prefix
    prefix = values;
  }
}

}  // namespace

const std::string& routing_name(Routing routing) { return kRoutings.at(static_cast<std::size_t>(routing)); }

void fields(io::FieldVisitor& visit, MoeLoraConfig& config) {
  visit({"rank", "total rank r of a linear's update; each expert has r / num_experts of it"}, config.rank);
  visit({"num_experts", "N; 1 is plain LoRA"}, config.num_experts);
  visit({"alpha", "the update is scaled by alpha / rank"}, config.alpha);
  visit({"dropout", "on the input of A, 0 or more and below 1"}, config.dropout);
  visit.choice(
      {"routing",
       "where the experts' weights come from: task (MOELoRA), uniform (no gate), token (MoLoRA), single (one LoRA for "
       "each task), table (fixed)"},
      kRoutings, config.routing);
  gate_fields(visit, config.gate);
  visit({"targets", "linears that get an update: ends of their names, or regular expressions for whole names"},
        config.targets);
  visit({"seed", "of the initial values"}, config.seed);
  visit({.key = "table",
         .meaning = "routing table: the experts' weights of each task",
         .written = config.routing == Routing::table,
         .example = "[[1.0, 0.0], [0.0, 1.0]]"},
        config.table);
  router_fields(visit, config.router, config.routing == Routing::token);
  visit({.key = "modules_to_save",
         .meaning = "modules of the base that are trained whole and travel with the adapter",
         .written = !config.modules_to_save.empty()},
        config.modules_to_save);
  prefix_fields(visit, config.prefix);
  visit({.key = "delta",
         .meaning = "what the linears get; a program may have kinds of its own",
         .written = config.delta != MoeLoraConfig().delta},
        config.delta);
}

}  // namespace moelora
