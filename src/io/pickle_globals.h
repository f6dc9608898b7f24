#pragma once
// The names that a pickle may mention: what torch.save writes into a state dict of tensors, and nothing that runs code.

#include <string>
#include <string_view>

namespace moelora::io {

bool is_allowed_global(std::string_view module, std::string_view name);

/// Error that begins with `label` and says what was refused.
[[noreturn]] void refuse_global(std::string_view module, std::string_view name, const std::string& label);

}  // namespace moelora::io
