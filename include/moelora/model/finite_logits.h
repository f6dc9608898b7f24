#pragma once
// Logits that are NaN or infinite: an answer read from them would be noise that looks like an answer.

#include <functional>
#include <string>

#include "moelora/model/causal_lm.h"
#include "moelora/model/prompt.h"

namespace moelora::model {

/// Where one sequence's forward stops being finite: "the first layer whose output is not finite is
/// transformer.layers.1 (…); it holds weights that are not finite: …". Runs the sequence once more, layer by layer.
std::string first_not_finite_layer(CausalLM& model, const Prompt& sequence, const nn::RowContext& context);

/// A sequence whose logits are looked at, made only when they are not finite.
struct SuspectSequence {
  std::string what;        ///< "prompt 3, token 5 of its answer"
  Prompt sequence;         ///< the prompt and what has been answered so far
  nn::RowContext context;  ///< of this sequence alone
};

/// Error io::NotFinite with what first_not_finite_layer says, unless all logits [rows, vocab] are finite. One pass over
/// them. `suspect` is called with the first row that is not finite.
void require_finite_logits(CausalLM& model, const at::Tensor& logits,
                           const std::function<SuspectSequence(std::int64_t row)>& suspect);

}  // namespace moelora::model
