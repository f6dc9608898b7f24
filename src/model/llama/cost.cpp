// What a training step takes, by the shapes that a block works with.

#include <algorithm>

#include "moelora/model/llama/llama.h"

namespace moelora::model {

std::optional<StepCost> LlamaImpl::step_cost(const Workload& load, std::int64_t recomputed_blocks) const {
  const auto h = static_cast<double>(config_.hidden_size);
  const auto inner = static_cast<double>(config_.intermediate_size);
  const auto vocab = static_cast<double>(config_.vocab_size);
  const auto queries = static_cast<double>(config_.num_attention_heads * config_.head_dim);
  const auto keys = static_cast<double>(config_.num_key_value_heads * config_.head_dim);
  const auto rows = static_cast<double>(load.rows);
  const auto labels = static_cast<double>(load.labels);
  const auto pairs = static_cast<double>(load.pairs);
  const auto size = static_cast<double>(c10::elementSize(model->embed_tokens->weight.scalar_type()));
  const auto whole = static_cast<double>(config_.num_hidden_layers - 1);  // blocks that compute all rows
  const auto again = std::min(static_cast<double>(recomputed_blocks), whole);

  StepCost cost;
  // Stored: x, q k v, the attended values, the second norm's input, gate and up.
  const double before_attention = h + queries + 2.0 * keys;
  const double after_attention = queries + h + 2.0 * inner;
  const double kept = before_attention + after_attention;
  const double last = rows * before_attention + labels * after_attention;
  const double one_again = again > 0.0 ? rows * (kept - h) : 0.0;
  cost.stored_bytes = size * (rows * (h * again + kept * (whole - again)) + last + one_again);
  // A block's widest moment: gate, up and their product or gradients, and three rows of hidden width. The head's is not
  // at the same time, but its memory is seldom given back in between: logits twice in fp32, of a chunk of rows.
  const double head_rows = std::min(labels, std::max(1.0, (16.0 * 1048576.0) / vocab));
  cost.working_bytes = size * rows * (3.0 * inner + 3.0 * h) + 2.0 * 4.0 * head_rows * vocab;

  const double before = h * (queries + 2.0 * keys);    // q_proj, k_proj, v_proj
  const double after = h * queries + 3.0 * h * inner;  // o_proj and the MLP
  const double weights = (whole + 1.0) * rows * before + (whole * rows + labels) * after;
  // 2 for forward and 2 for the gradient of the input; attention: two products forward, five backward.
  cost.operations = 4.0 * weights + (whole + 1.0) * pairs * 14.0 * queries + 4.0 * labels * h * vocab;
  cost.operations += again * (2.0 * rows * (before + after) + 4.0 * pairs * queries);
  return cost;
}

}  // namespace moelora::model
