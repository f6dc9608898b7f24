#pragma once
// The tensors of an adapter before it is made: to check memory and files by.

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "adapter/core/target_linears.h"
#include "moelora/adapter/config.h"

namespace moelora {

using Shape = std::vector<std::int64_t>;
/// One tensor of an adapter's file as it must be.
struct ExpectedTensor {
  std::string name;
  Shape shape;
  at::ScalarType dtype = at::kFloat;
};
using AdapterShapes = std::vector<ExpectedTensor>;

/// "linears.<base linear name>.<tensor of its delta>": what such a tensor is called in an adapter's file.
std::string linear_tensor_name(const std::string& linear, const std::string& tensor);
/// Linear and tensor of such a name; nothing if it is another tensor's.
std::optional<std::pair<std::string, std::string>> linear_tensor_place(const std::string& name);

/// Names (those of adapter_tensors()) and shapes of the tensors that inject() with this configuration would make, all
/// but those of modules_to_save. Error as from inject() if a target matches nothing.
AdapterShapes adapter_shapes(torch::nn::Module& base, const MoeLoraConfig& config, std::int64_t num_tasks);
/// The same with the targets' linears already found.
AdapterShapes adapter_shapes(const std::vector<NamedLinear>& targets, const torch::nn::Module& base,
                             const MoeLoraConfig& config, std::int64_t num_tasks);

}  // namespace moelora
