#pragma once
// The fingerprint of a set of weights: SHA-256 over the sorted (name, shape, values as fp32), so that .bin,
// safetensors, fp16 and fp32 forms of the same weights agree.

#include <string>

#include "moelora/io/safetensors.h"

namespace moelora::io {

/// Each tensor is hashed by itself (in parallel), then the sorted list of (name, shape, digest).
std::string fingerprint(const NamedTensors& tensors);

}  // namespace moelora::io
