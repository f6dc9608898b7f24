#include "moelora/adapter/fingerprint.h"

#include <ATen/ops/view_as_real.h>

#include <algorithm>

#include "moelora/adapter/adapter.h"
#include "moelora/io/error.h"
#include "moelora/io/fingerprint.h"

namespace moelora {
namespace {

void collect(const torch::nn::Module& module, const std::string& path, const std::vector<std::string>& without,
             std::vector<bool>& used, io::NamedTensors& tensors) {
  bool left_out = dynamic_cast<const AdapterImpl*>(&module) != nullptr;
  for (std::size_t i = 0; i < without.size(); ++i) {
    if (names_module(without[i], path)) {
      left_out = used[i] = true;
    }
  }
  if (left_out) {
    return;
  }
  const std::string prefix = path.empty() ? "" : path + ".";
  const auto add = [&](const std::string& name, const at::Tensor& tensor) {
    if (tensor.defined()) {
      tensors.emplace_back(prefix + name, tensor.is_complex() ? at::view_as_real(tensor.detach()) : tensor.detach());
    }
  };
  for (const auto& parameter : module.named_parameters(/*recurse=*/false)) {
    add(parameter.key(), parameter.value());
  }
  for (const auto& buffer : module.named_buffers(/*recurse=*/false)) {
    add(buffer.key(), buffer.value());
  }
  for (const auto& child : module.named_children()) {
    collect(*child.value(), prefix + child.key(), without, used, tensors);
  }
}

}  // namespace

std::string fingerprint(const torch::nn::Module& base, const std::vector<std::string>& without) {
  io::NamedTensors tensors;
  std::vector<bool> used(without.size(), false);
  collect(base, "", without, used, tensors);
  for (std::size_t i = 0; i < without.size(); ++i) {
    MOELORA_CHECK(used[i], "no fingerprint: '", without[i],
                  "', which is to be left out, stands for no module of the base");
  }
  return io::fingerprint(tensors);
}

}  // namespace moelora
