#pragma once
// What training, evaluation and generation know of a language model. The graph works on packed rows (nn/row_context.h).

#include <torch/nn/module.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "moelora/model/model_shape.h"
#include "moelora/nn/prefix_host.h"
#include "moelora/nn/row_context.h"

namespace moelora::model {

class KvCache;

struct ForwardOptions {
  /// Rows whose final hidden states are wanted, [n] int64; undefined: all. The last layer computes no others.
  at::Tensor output_rows;
  /// Keys and values of earlier rows; the forward appends its own. nullptr: none (training).
  KvCache* cache = nullptr;
  /// The rows' embeddings, [rows, hidden_size], where they are not to be looked up: gradients can flow into them.
  at::Tensor input_embeddings;
  /// So many blocks, the first ones, store only their input and are recomputed in backward: less memory, more time, the
  /// same numbers. Blocks without a manual backward ignore it.
  std::int64_t recomputed_blocks = 0;
};

/// The size of a micro-batch, as far as costs depend on it.
struct Workload {
  std::int64_t rows = 0;
  std::int64_t labels = 0;
  std::int64_t pairs = 0;  ///< (query, key) pairs that attention looks at, in one block
};

/// What forward and backward of a micro-batch take with a frozen base; an adapter's own products are not counted.
struct StepCost {
  double stored_bytes = 0.0;   ///< kept from forward to backward, all blocks
  double working_bytes = 0.0;  ///< most temporaries at one time
  double operations = 0.0;     ///< floating-point operations, a multiply-add counting two
};

/// Shown what one module gave, under its name. False: no more are wanted.
using OutputVisitor = std::function<bool(const std::string& module, const at::Tensor& output)>;

class CausalLM : public torch::nn::Module, public nn::PrefixHost {
 public:
  using torch::nn::Module::Module;

  /// Final hidden states. ids [rows] int64, positions [axes, rows] int64; returns [rows or n, hidden_size]. Every row
  /// of layer l also attends to context.prefix[l], if there is one; it takes no position.
  virtual at::Tensor hidden(const at::Tensor& ids, const at::Tensor& positions, const nn::RowContext& context,
                            const ForwardOptions& options = {}) = 0;
  /// The head's weight [vocab_size, hidden_size] when logits are a plain product with it; undefined otherwise.
  virtual at::Tensor head_weight() const = 0;
  /// Logits of hidden rows. [n, hidden_size] → [n, vocab_size].
  virtual at::Tensor logits(const at::Tensor& hidden_rows) = 0;
  /// Runs whole sequences and shows, for as long as `visit` says true, what each layer gives: the embedding, every one
  /// of num_layers blocks, the last norm (all [rows, hidden_size]), the head for the last row alone [1, vocab_size]. A
  /// graph that does not override this shows its logits alone, under an empty name.
  virtual void visit_outputs(const at::Tensor& ids, const at::Tensor& positions, const nn::RowContext& context,
                             const OutputVisitor& visit);
  /// Positions of whole packed sequences, [axes, rows] int64 on the CPU.
  virtual at::Tensor positions(const nn::Segments& segments) const = 0;
  /// Positions of the one row at index `index` of a sequence with so many bidirectional rows, [axes, 1].
  virtual at::Tensor position_at(std::int64_t bidirectional_rows, std::int64_t index) const = 0;
  /// Boundaries of packed training sequences, lengths [S], whose first labels are the tokens at the indices
  /// label_begins [S]. Causal unless a model overrides it: no bidirectional rows. In a prefix-LM they are the rows
  /// before the labels.
  virtual nn::Segments segments(const std::vector<std::int64_t>& lengths,
                                const std::vector<std::int64_t>& label_begins) const;

  virtual ModelShape shape() const = 0;
  nn::PrefixShape prefix_shape() const override { return {shape().layers, shape().kv_heads, shape().head_dim}; }

  /// Costs of training a micro-batch with `recomputed_blocks` as in ForwardOptions; nothing: not known.
  virtual std::optional<StepCost> step_cost(const Workload& load, std::int64_t recomputed_blocks) const;

  /// Those of the first parameter.
  at::Device device() const;
  at::ScalarType dtype() const;
};

/// Cross entropy of each label row, fp32 [n]: the head is applied in chunks of rows, so that the logits of a whole
/// batch never exist. hidden_rows [n, hidden_size], labels [n] int64. Differentiable.
at::Tensor token_losses(CausalLM& model, const at::Tensor& hidden_rows, const at::Tensor& labels);

}  // namespace moelora::model
