#pragma once
#include <c10/core/ScalarType.h>

#include <string>

namespace moelora::io {

/// float32, float16, bfloat16 as model configurations write them; other types by LibTorch's name.
std::string dtype_name(at::ScalarType dtype);

}  // namespace moelora::io
