#pragma once
// What reading our own and foreign adapter files has in common.

#include <filesystem>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "adapter/core/adapter_shapes.h"
#include "adapter/core/listed.h"
#include "moelora/adapter/adapter.h"

namespace moelora {

/// inject() and fill_adapter(), in the reverse order of what can go wrong: nothing is made before the tensors are known
/// to be those that the configuration describes. If filling fails, the adapter is taken out again and the base's
/// parameters are trainable as before.
Adapter inject_filled(torch::nn::Module& base, const MoeLoraConfig& config, TaskNames tasks, const std::string& name,
                      const std::map<std::string, at::Tensor>& tensors, const std::string& origin);

/// Error if `folder` exists and holds anything but `own` files: replacing it as a whole would delete the rest.
void check_replaceable(const std::filesystem::path& folder, const std::set<std::string>& own);

}  // namespace moelora
