#include "moelora/adapter/gate.h"

#include <ATen/ATen.h>

#include <cmath>
#include <ostream>

#include "moelora/io/error.h"

namespace moelora {

TaskGateImpl::TaskGateImpl(const GateConfig& config, std::int64_t num_experts, std::int64_t num_tasks)
    : top_k_(config.top_k), reserved_rows_(config.reserved_rows), num_tasks_(num_tasks) {
  MOELORA_CHECK(num_tasks >= 1, "a gate needs at least one task; give the adapter its task names");
  task_embedding =
      register_parameter("task_embedding", at::zeros({reserved_rows_ + num_tasks, config.task_embedding_dim}));
  weight = register_parameter("weight", at::zeros({num_experts, config.task_embedding_dim}));
}

void TaskGateImpl::pretty_print(std::ostream& stream) const {
  stream << "moelora::TaskGate(tasks=" << num_tasks_ << ", experts=" << weight.size(0)
         << ", task_embedding_dim=" << weight.size(1) << ")";
}

void TaskGateImpl::reset_parameters(at::Generator generator) {
  at::NoGradGuard guard;
  task_embedding.normal_(0.0, 1.0, generator);
  const double bound = 1.0 / std::sqrt(static_cast<double>(weight.size(1)));
  weight.uniform_(-bound, bound, std::move(generator));
}

at::Tensor TaskGateImpl::weights_of_embeddings(const at::Tensor& embeddings) const {
  at::Tensor logits = at::linear(embeddings, weight);  // [S, N]
  if (top_k_ > 0 && top_k_ < logits.size(1)) {
    const at::Tensor chosen = std::get<1>(logits.topk(top_k_, 1));
    const at::Tensor dropped = at::ones_like(logits, at::kBool).scatter_(1, chosen, false);
    logits = logits.masked_fill(dropped, -std::numeric_limits<float>::infinity());
  }
  return at::softmax(logits, 1);
}

at::Tensor TaskGateImpl::weights_of_rows(const at::Tensor& rows) const {
  return weights_of_embeddings(task_embedding.index_select(0, rows));
}

at::Tensor TaskGateImpl::forward(const TaskIds& tasks) const {
  return weights_of_shares(task_shares(tasks, num_tasks_).to(task_embedding.device()));
}

at::Tensor TaskGateImpl::weights_of_shares(const at::Tensor& shares) const {
  // The mean of the tasks' rows as one product. A single task is a row with one 1: exact.
  return weights_of_embeddings(at::mm(shares, task_embedding.narrow(0, reserved_rows_, num_tasks_)));
}

at::Tensor task_shares(const TaskIds& tasks, std::int64_t num_tasks) {
  const auto sequences = static_cast<std::int64_t>(tasks.size());
  at::Tensor share = at::zeros({sequences, num_tasks});
  auto shares = share.accessor<float, 2>();
  for (std::int64_t i = 0; i < sequences; ++i) {
    MOELORA_CHECK(!tasks[i].empty(), "sequence ", i, " has no task");
    for (const std::int64_t task : tasks[i]) {
      MOELORA_CHECK(task >= 0 && task < num_tasks, "sequence ", i, " has task ", task, ", expected 0 to ",
                    num_tasks - 1);
      shares[i][task] += 1.0f / static_cast<float>(tasks[i].size());
    }
  }
  return share;
}

at::Tensor fixed_expert_weights(const MoeLoraConfig& config, std::int64_t num_tasks) {
  if (config.routing == Routing::single) {
    MOELORA_CHECK(config.num_experts == num_tasks, "routing \"single\" gives each task its own expert: expected ",
                  "num_experts = ", num_tasks, ", found ", config.num_experts);
    return at::eye(num_tasks);
  }
  if (config.routing != Routing::table) {
    return {};
  }
  MOELORA_CHECK(static_cast<std::int64_t>(config.table.size()) == num_tasks, "the table of expert weights has ",
                config.table.size(), " rows, expected one for each of ", num_tasks, " tasks");
  at::Tensor table = at::empty({num_tasks, config.num_experts});
  auto weights = table.accessor<float, 2>();
  for (std::int64_t task = 0; task < num_tasks; ++task) {
    for (std::int64_t expert = 0; expert < config.num_experts; ++expert) {
      weights[task][expert] = static_cast<float>(config.table[task][expert]);
    }
  }
  return table;
}

}  // namespace moelora
