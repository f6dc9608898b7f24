#pragma once
#include <c10/core/ScalarType.h>

#include <optional>
#include <string>
#include <string_view>

namespace moelora::io {

/// float32, float16, bfloat16 as model configurations write them; other types by LibTorch's name.
std::string dtype_name(at::ScalarType dtype);
/// The type of such a name; nothing if it is another. fp32, fp16 and bf16 are names too.
std::optional<at::ScalarType> dtype_of_name(std::string_view name);

}  // namespace moelora::io
