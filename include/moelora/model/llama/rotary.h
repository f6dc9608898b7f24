#pragma once
// Rotary positions of the Llama kind: one axis, frequencies by the configuration's type of scaling. Formulas are those
// of transformers (modeling_rope_utils), in fp32 and in the same order.

#include <ATen/core/Tensor.h>

#include <mutex>

#include "moelora/model/llama/config.h"
#include "moelora/nn/rotary.h"
#include "moelora/nn/row_context.h"

namespace moelora::model {

/// Frequencies of the pairs of one head, fp32 [rotary_dim/2] on the CPU; of type dynamic those of sequences that are no
/// longer than max_position_embeddings.
at::Tensor llama_frequencies(const LlamaConfig& config);

/// What yarn multiplies cosines and sines by; 1 for the other types.
double llama_attention_factor(const LlamaConfig& config);

/// Makes a forward's tables. Threads may share one.
class LlamaRotary {
 public:
  explicit LlamaRotary(const LlamaConfig& config);

  /// positions [1, rows] int64 → tables [rows, rotary_dim] on their device, in `dtype`. Of type dynamic, the theta of a
  /// row is that of the length that its sequence has with this forward's rows: a prompt turns by its own length, a
  /// generated row by the length that it makes, and rows in a cache stay as they were turned.
  nn::Rotary tables(const at::Tensor& positions, const nn::RowContext& context, at::ScalarType dtype) const;

 private:
  at::Tensor frequencies_on(const at::Device& device) const;
  at::Tensor dynamic_frequencies(const at::Tensor& positions, const nn::RowContext& context) const;

  LlamaConfig config_;
  double attention_factor_;
  // The first forward on a device uploads them; a step that is recorded later must not.
  mutable std::mutex mutex_;
  mutable at::Tensor frequencies_;
  mutable at::Tensor exponents_;  // dynamic: 2i/d
};

}  // namespace moelora::model
