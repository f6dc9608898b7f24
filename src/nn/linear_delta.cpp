#include "moelora/nn/linear_delta.h"

#include "moelora/io/error.h"

namespace moelora::nn {

std::vector<std::pair<std::string, at::Tensor>> LinearDelta::tensors() const {
  std::vector<std::pair<std::string, at::Tensor>> all;
  for (const auto& named : {named_parameters(), named_buffers()}) {
    for (const auto& entry : named) {
      all.emplace_back(entry.key(), entry.value());
    }
  }
  return all;
}

at::Tensor LinearDelta::tensor(const std::string& name) const {
  std::string known;
  for (const auto& [key, tensor] : tensors()) {
    if (key == name) {
      return tensor;
    }
    known += (known.empty() ? "" : ", ") + key;
  }
  throw Error(detail::concat("expected the name of a tensor of ", this->name(), " (", known, "), found '", name, "'"));
}

at::Device LinearDelta::device() const {
  const auto all = tensors();
  return all.empty() ? at::Device(at::kCPU) : all.front().second.device();
}

std::int64_t LinearDelta::parameter_count() const {
  std::int64_t count = 0;
  for (const at::Tensor& parameter : parameters()) {
    count += parameter.numel();
  }
  return count;
}

void LinearDelta::require_mergeable() const {
  if (const std::string reason = not_mergeable(); !reason.empty()) {
    throw NotMergeable("NotMergeable: the update of '" + name() + "' " + reason + "; serve it unmerged");
  }
}

LowRankForm LinearDelta::low_rank(const at::Tensor&) const {
  require_mergeable();
  TORCH_INTERNAL_ASSERT(false, name(), " says that it can be merged, but has no low-rank form");
}

at::Tensor LinearDelta::begin_forward(const at::Tensor&, const at::Tensor&, const RowContext&, at::Tensor&) const {
  TORCH_INTERNAL_ASSERT(false, name(), " has no manual backward");
}

void LinearDelta::finish_backward(const at::Tensor&, const RowSource&, const at::Tensor&, const RowContext&,
                                  at::Tensor&, DeltaGradients&) const {
  TORCH_INTERNAL_ASSERT(false, name(), " has no manual backward");
}

}  // namespace moelora::nn
