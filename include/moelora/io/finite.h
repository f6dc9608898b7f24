#pragma once
// NaN and infinity where numbers were expected: the input could be read, but what it holds, or what was computed from
// it, can't be used.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "moelora/io/error.h"

namespace moelora::io {

class NotFinite : public Error {
 public:
  using Error::Error;
};

/// Whether a tensor holds neither NaN nor infinity. One pass without a copy where it does not.
bool all_finite(const at::Tensor& values);
/// Of all of them. Those on a device are summed there and waited for once.
bool all_finite(const std::vector<at::Tensor>& tensors);
/// How many of the values are NaN or infinite.
std::int64_t count_not_finite(const at::Tensor& values);
/// "3 of 4096 values are not finite, the first is NaN at [0, 17]"; empty if all are finite.
std::string describe_not_finite(const at::Tensor& values);

}  // namespace moelora::io
