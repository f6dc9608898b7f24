#pragma once
// What reading our own and foreign adapter files has in common.

#include <filesystem>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "moelora/adapter/adapter.h"

namespace moelora {

using Shape = std::vector<std::int64_t>;
/// One tensor of an adapter's file as it must be.
struct ExpectedTensor {
  std::string name;
  Shape shape;
  at::ScalarType dtype = at::kFloat;
};
using AdapterShapes = std::vector<ExpectedTensor>;

/// Names (those of adapter_tensors()) and shapes of the tensors that inject() with this configuration would make, all
/// but those of modules_to_save. Error as from inject() if a target matches nothing.
AdapterShapes adapter_shapes(torch::nn::Module& base, const MoeLoraConfig& config, std::int64_t num_tasks);

/// inject() and fill_adapter(), in the reverse order of what can go wrong: nothing is made before the tensors are known
/// to be those that the configuration describes. If filling fails, the adapter is taken out again and the base's
/// parameters are trainable as before.
Adapter inject_filled(torch::nn::Module& base, const MoeLoraConfig& config, TaskNames tasks, const std::string& name,
                      const std::map<std::string, at::Tensor>& tensors, const std::string& origin);

/// Error if `folder` exists and holds anything but `own` files: replacing it as a whole would delete the rest.
void check_replaceable(const std::filesystem::path& folder, const std::set<std::string>& own);

/// "\n  " before each of the first entries, and how many more there are.
std::string listed(const std::vector<std::string>& entries, std::size_t limit = 20);

}  // namespace moelora
