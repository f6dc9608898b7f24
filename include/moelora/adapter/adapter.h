#pragma once
// An adapter: the deltas of all adapted linears, the gate(s) and the encoder of a key/value prefix, as one module
// beside the base; linears or the prefix may be missing. AdamW over adapter->parameters() trains exactly the adapter
// and, after its own parameters, those of the base's modules that it saves (MoeLoraConfig::modules_to_save).

#include <torch/nn/module.h>
#include <torch/nn/pimpl.h>

#include <atomic>
#include <iosfwd>
#include <memory>
#include <string>
#include <vector>

#include "moelora/adapter/config.h"
#include "moelora/adapter/gate.h"
#include "moelora/adapter/prefix_encoder.h"
#include "moelora/adapter/saved_modules.h"
#include "moelora/adapter/task_names.h"
#include "moelora/nn/linear.h"
#include "moelora/nn/linear_delta.h"
#include "moelora/nn/row_context.h"

namespace moelora {

struct MergeState;  // adapter/merge.h

class AdapterImpl : public torch::nn::Module {
 public:
  struct AdaptedLinear {
    std::string name;  ///< Name of the linear in the base, e.g. transformer.layers.0.mlp.dense_4h_to_h
    std::shared_ptr<nn::LinearImpl> base;
    std::shared_ptr<nn::LinearDelta> delta;
  };

  AdapterImpl(std::string name, const MoeLoraConfig& config, TaskNames tasks, std::vector<AdaptedLinear> linears,
              PrefixEncoder prefix_encoder = nullptr);
  ~AdapterImpl() override;
  /// Routing, rank, experts, tasks, linears and trained parameters in one line; std::cout << *adapter prints it in
  /// front of its parts.
  void pretty_print(std::ostream& stream) const override;

  const std::string& adapter_name() const { return name_; }
  const MoeLoraConfig& config() const { return config_; }
  const TaskNames& tasks() const { return tasks_; }
  const std::vector<AdaptedLinear>& linears() const { return linears_; }
  std::vector<TaskGate>& gates() { return gates_; }
  const std::vector<TaskGate>& gates() const { return gates_; }
  const PrefixEncoder& prefix_encoder() const { return prefix_encoder_; }  ///< Empty without a prefix.
  const SavedModules& saved_modules() const { return saved_modules_; }     ///< Empty without modules_to_save.

  /// ω of each gate and sequence, [gates, S, N] fp32 (gates = 1 unless per_linear); undefined for token routing.
  /// Uniform routing and N = 1 need no task ids. Error for a task out of range.
  at::Tensor expert_weights(const TaskIds& tasks) const;
  at::Tensor expert_weights(const TaskIds& tasks, std::int64_t sequences) const;
  /// ω of each task, averaged over the gates, [K][N]; empty without a task gate. For people to look at.
  std::vector<std::vector<float>> expert_weights_by_task() const;
  /// The same as a tensor [K, N] on the adapter's device; undefined without a task gate.
  at::Tensor mean_expert_weights() const;
  /// The context of a forward: gate and prefix evaluated once. Only an enabled adapter gives a prefix.
  ///
  /// Dropout needs train mode and a key (nn::DropoutKey::for_step(seed, step, batch)): after eval() a key is ignored,
  /// as torch::nn::Dropout would be; in train mode with gradients, a configuration with dropout and no key is warned of
  /// once. The adapter is no child of the base, so its mode is its own: adapter->train(), adapter->eval().
  ///
  /// Linears run it while this is their active adapter, or none is; another active adapter is an Error, and so is a
  /// context whose tasks are not the one that is merged, here and in forward.
  ///
  /// One upload for all (two where a prefix has dropout), which `along` shares as in RowContext::plain.
  nn::RowContext context(const nn::Segments& segments, const TaskIds& tasks, nn::DropoutKey dropout = {},
                         std::vector<at::Tensor*> along = {}) const;

  /// Routing::table only: other fixed weights, [K][N].
  void set_table(std::vector<std::vector<double>> table);

  void enable();   ///< Makes this the active adapter of its linears. Error while merged.
  void disable();  ///< Linears run plain; contexts have no prefix.
  bool enabled() const;

  MergeState* merge_state() const { return merge_.get(); }
  /// `merged`: what is folded in, for messages; `task`: the task that it is, -1 for a mixture. Null: unmerged.
  void set_merge_state(std::shared_ptr<MergeState> state, const std::string& merged = "a task", std::int64_t task = -1);

  /// inject: the base's modules that travel with this adapter. They take the trained values when it is enabled.
  void save_modules(SavedModules modules);
  /// eject: the base has its own values again, the adapter keeps the trained ones.
  void release_modules();

 private:
  at::Device device() const;
  /// What expert_weights_of needs of the tasks, on the CPU: their shares [S, K], with fixed weights ω itself [S, N];
  /// undefined where ω does not depend on them.
  at::Tensor shares_of(const TaskIds& tasks, std::int64_t sequences) const;
  at::Tensor expert_weights_of(const at::Tensor& shares, std::int64_t sequences) const;
  bool has_dropout() const;
  void update_saved_modules();
  std::string name_;
  MoeLoraConfig config_;
  TaskNames tasks_;
  std::vector<AdaptedLinear> linears_;
  std::vector<TaskGate> gates_;
  at::Tensor fixed_weights_;  // [K, N], on the CPU: routing single and table; part of the configuration
  PrefixEncoder prefix_encoder_;
  SavedModules saved_modules_{nullptr};
  bool switched_on_ = false;
  std::shared_ptr<MergeState> merge_;
  std::shared_ptr<nn::AdapterIdentity> identity_;
  mutable std::atomic<bool> warned_of_dropout_{false};
};
TORCH_MODULE(Adapter);

/// Names of the linears of `base` that take an adapter, in the order of the module tree.
std::vector<std::string> adaptable_linears(torch::nn::Module& base);

/// Attaches a new adapter to every nn::Linear of `base` that a target pattern matches, freezes the base's parameters
/// and enables the adapter. Error: a pattern that matches nothing, only modules that accept no delta, or (also) a
/// linear that refuses them, as the head of a model does whose logits are computed without context; a taken name; a
/// prefix for a base that is no nn::PrefixHost.
Adapter inject(torch::nn::Module& base, const MoeLoraConfig& config, TaskNames tasks,
               const std::string& name = "default");

/// The contexts of forwards whose sequence i is of the tasks `tasks[i]`, as AdapterImpl::context takes them: what
/// generation and evaluation ask for.
nn::ContextMaker for_tasks(Adapter adapter, TaskIds tasks);
/// The same where every sequence is of one task. Error naming the tasks that there are.
nn::ContextMaker for_task(Adapter adapter, std::string_view task);

void eject(Adapter& adapter);  ///< Detaches it from the base; the adapter keeps what it trained.

void freeze(torch::nn::Module& module);    ///< requires_grad = false on every parameter.
void unfreeze(torch::nn::Module& module);  ///< requires_grad = true on every parameter.

}  // namespace moelora
