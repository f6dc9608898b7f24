#pragma once
// A few fixed prompts whose logits show what a change of weights does to a model.

#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

#include "cli/session.h"

namespace moelora::cli {

/// Prompts of different length, packed.
struct Probe {
  explicit Probe(const model::Tokenizer& tokenizer);
  std::vector<std::string> texts;
  std::vector<model::Prompt> prompts;  ///< one for each text
  nn::Segments segments;
};

/// Logits [rows, vocab] of all prompts, fp32 on the CPU. Error io::NotFinite naming the first layer that is not finite.
at::Tensor probe_logits(model::CausalLM& model, const Probe& probe, const nn::ContextMaker& context);

/// Error io::NotFinite naming the tensors of the base that hold NaN or infinity.
void require_finite_weights(const model::CausalLM& model, const std::filesystem::path& folder);

}  // namespace moelora::cli
