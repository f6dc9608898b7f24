#pragma once
// The choice of the next tokens on a device. The CPU's twin: model/sampling.h.

#include <vector>

#include "nn/kernels/cuda/code/sampling.cuh"
#include "nn/kernels/cuda/launcher.h"

namespace moelora::nn::kernels {

/// How tokens are chosen; as GenerationOptions (model/generation.h).
struct TokenChoice {
  bool sample = false;
  double temperature = 1.0;
  std::int64_t top_k = 0;
  double top_p = 1.0;
};

/// What a decoding step leaves for the next one, on the device; changed in place.
struct DecodingRows {
  at::Tensor ids;        ///< [rows] int64: the tokens that were chosen
  at::Tensor positions;  ///< [axes, rows] int64: theirs
  at::Tensor steps;      ///< [axes, rows] int64: what positions grow by
  at::Tensor states;     ///< [rows] int64: state of each sequence's random stream; undefined: greedy
  at::Tensor chosen;     ///< [2, rows] int64, for the host: ids, and 1 where the row's logits are not finite
};

/// Chooses a token from each row of logits [rows, vocab], in one launch. Greedy choices are those of the CPU's
/// TokenSampler. Drawn ones come from the same random numbers; weights are fp32 in units of 2^-40 of the largest
/// where the CPU's are fp64, so that a choice can differ where the random number, or top_p, lies within about
/// 10^-6 of the boundary between two tokens. Rows with logits that are not finite choose token 0.
void choose_tokens(const at::Tensor& logits, const TokenChoice& choice, const DecodingRows& rows);

std::vector<KernelInfo> sampling_kernels();

}  // namespace moelora::nn::kernels
