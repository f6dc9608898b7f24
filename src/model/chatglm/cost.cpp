// What a training step takes, by the shapes that block_function.cpp works with.

#include <algorithm>

#include "moelora/model/chatglm/chatglm.h"

namespace moelora::model {

std::optional<StepCost> ChatGlmImpl::step_cost(const Workload& load, std::int64_t recomputed_blocks) const {
  const auto h = static_cast<double>(config_.hidden_size);
  const auto inner = static_cast<double>(config_.inner_hidden_size);
  const auto vocab = static_cast<double>(config_.vocab_size);
  const auto rows = static_cast<double>(load.rows);
  const auto labels = static_cast<double>(load.labels);
  const auto pairs = static_cast<double>(load.pairs);
  const auto size = static_cast<double>(c10::elementSize(transformer->word_embeddings->weight.scalar_type()));
  const auto whole = static_cast<double>(config_.num_layers - 1);  // blocks that compute all rows
  const auto again = std::min(static_cast<double>(recomputed_blocks), whole);

  StepCost cost;
  // Stored: x, q k v, the attended values, the second norm's input, the MLP's inner values before GELU.
  const double after_attention = h + h + inner;
  const double kept = 4.0 * h + after_attention;
  const double last = rows * 4.0 * h + labels * after_attention;
  const double one_again = again > 0.0 ? rows * (kept - h) : 0.0;
  cost.stored_bytes = size * (rows * (h * again + kept * (whole - again)) + last + one_again);
  // A block's widest moment: GELU's input and output or their gradients, and three rows of hidden width. The head's is
  // not at the same time, but its memory is seldom given back in between: logits twice in fp32, of a chunk of rows.
  const double head_rows = std::min(labels, std::max(1.0, (16.0 * 1048576.0) / vocab));
  cost.working_bytes = size * rows * (2.0 * inner + 3.0 * h) + 2.0 * 4.0 * head_rows * vocab;

  const double before = 3.0 * h * h;             // query_key_value
  const double after = h * h + 2.0 * h * inner;  // dense and the MLP
  const double weights = (whole + 1.0) * rows * before + (whole * rows + labels) * after;
  // 2 for forward and 2 for the gradient of the input; attention: two products forward, five backward.
  cost.operations = 4.0 * weights + (whole + 1.0) * pairs * 14.0 * h + 4.0 * labels * h * vocab;
  cost.operations += again * (2.0 * rows * (before + after) + 4.0 * pairs * h);
  return cost;
}

}  // namespace moelora::model
