#pragma once
// How the elements of a weight or of a key-value cache lie in memory. No LibTorch in here: kernels include it.

namespace moelora::nn::kernels {

/// All arithmetic is fp32, whatever is stored.
enum class Stored { fp32, fp16, bf16 };

}  // namespace moelora::nn::kernels
