#pragma once
// Choosing the next token from logits.

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "moelora/model/generation.h"

namespace moelora::model {

/// The state in which the random stream of a sequence begins: its n-th number, from 1 on, is io::splitmix_output(state
/// + n · io::kSplitMixStep), of which the upper 53 bits count.
std::uint64_t stream_state(std::uint64_t seed, std::uint64_t sequence);

/// The stream of choices of one sequence: greedy (the first of the largest logits), or drawn after temperature, top_k
/// and top_p (the smallest set of most probable tokens that reaches top_p). Depends on (seed, sequence) alone;
/// `sequence` is the number of its stream.
class TokenSampler {
 public:
  TokenSampler(const GenerationOptions& options, std::uint64_t sequence);
  std::int64_t next(const at::Tensor& logits);  ///< logits [vocab] fp32 on the CPU

 private:
  double uniform();
  GenerationOptions options_;
  std::uint64_t state_;
};

}  // namespace moelora::model
