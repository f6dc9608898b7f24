#pragma once
// The fingerprint of a set of weights: SHA-256 over the sorted (name, shape, values as fp32), so that .bin,
// safetensors, fp16 and fp32 forms of the same weights agree.

#include <cstdint>
#include <string>
#include <vector>

#include "moelora/io/safetensors.h"

namespace moelora::io {

/// Each tensor is hashed by itself (in parallel), then the sorted list of (name, shape, digest).
std::string fingerprint(const NamedTensors& tensors);

/// One tensor's part of it, for weights that are never in memory together.
struct TensorDigest {
  std::string name;
  std::vector<std::int64_t> shape;
  std::string digest;  ///< SHA-256 of the values as fp32, row by row, in hexadecimal digits
};
TensorDigest tensor_digest(const std::string& name, const at::Tensor& tensor);
/// The same as of the tensors themselves, in any order.
std::string fingerprint_of(std::vector<TensorDigest> digests);

}  // namespace moelora::io
