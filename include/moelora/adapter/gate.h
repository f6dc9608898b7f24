#pragma once
// The gate of MOELoRA: ω_j = softmax(W_T e_j), e_j the task's row of E (arXiv 2310.18339, eq. 7-8).

#include <torch/nn/module.h>
#include <torch/nn/pimpl.h>

#include "moelora/adapter/config.h"
#include "moelora/adapter/task_names.h"

namespace moelora {

class TaskGateImpl : public torch::nn::Module {
 public:
  TaskGateImpl(const GateConfig& config, std::int64_t num_experts, std::int64_t num_tasks);
  void reset_parameters(at::Generator generator);  ///< E ~ N(0, 1), W_T ~ U(±1/sqrt(d_T)) as LibTorch's Linear.
  void pretty_print(std::ostream& stream) const override;

  /// Expert weights of each sequence, [S, N] fp32. Rows sum to 1. Differentiable.
  at::Tensor forward(const TaskIds& tasks) const;
  /// The same of task_shares(tasks), which are on the gate's device.
  at::Tensor weights_of_shares(const at::Tensor& shares) const;
  /// The same for rows of E taken directly, rows [n] int64.
  at::Tensor weights_of_rows(const at::Tensor& rows) const;

  at::Tensor task_embedding;  ///< E [reserved_rows + K, d_T]
  at::Tensor weight;          ///< W_T [N, d_T]

 private:
  at::Tensor weights_of_embeddings(const at::Tensor& embeddings) const;
  std::int64_t top_k_;
  std::int64_t reserved_rows_;
  std::int64_t num_tasks_;
};
TORCH_MODULE(TaskGate);

/// What each task contributes to each sequence, [S, K] fp32 on the CPU; rows sum to 1. Error: no task, or out of range.
at::Tensor task_shares(const TaskIds& tasks, std::int64_t num_tasks);

/// ω by task [K, N] of a routing without gate whose weights differ by task (single, table); undefined for the others.
/// Error if the configuration does not fit the number of tasks.
at::Tensor fixed_expert_weights(const MoeLoraConfig& config, std::int64_t num_tasks);

}  // namespace moelora
