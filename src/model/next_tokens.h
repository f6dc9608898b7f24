#pragma once
// The tokens with which decoding goes on, chosen from each step's logits: by the host, or by the device, whose next
// step then begins before the host has read them.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "moelora/model/causal_lm.h"
#include "moelora/model/generation.h"

namespace moelora::model {

class NextTokens {
 public:
  virtual ~NextTokens() = default;
  /// Chooses a token for each row of logits [rows, vocab]; the rows are the sequences of the batch.
  virtual void choose(const at::Tensor& logits) = 0;
  /// The tokens that were chosen last, after a wait for the device; empty if some logits are not finite.
  virtual std::vector<std::int64_t> read() = 0;
  /// Only these rows go on, in this order.
  virtual void keep(const std::vector<std::int64_t>& rows) = 0;
  /// What the next step begins with, after read() and keep(): the chosen tokens [rows] and their positions [axes,
  /// rows], int64 on the model's device.
  virtual at::Tensor ids() const = 0;
  virtual at::Tensor positions() const = 0;
  /// Whether choose() is work of the device alone, and ids() and positions() stay the same tensors until keep().
  virtual bool is_on_device() const = 0;
};

/// For the sequences that begin with these prompts, which outlive it. On a device with kernels it is the device's work,
/// unless the model's positions do not grow evenly behind the prompt.
std::unique_ptr<NextTokens> make_next_tokens(const CausalLM& model, const std::vector<Prompt>& prompts,
                                             const GenerationOptions& options);

}  // namespace moelora::model
