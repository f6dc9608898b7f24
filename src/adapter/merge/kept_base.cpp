#include "adapter/merge/kept_base.h"

#include <ATen/ATen.h>

#include "moelora/io/error.h"

namespace moelora {
namespace {

using KeepBase = MergeOptions::KeepBase;
using AdaptedLinear = AdapterImpl::AdaptedLinear;

bool same_bytes(const at::Tensor& a, const at::Tensor& b) {
  if (a.scalar_type() != b.scalar_type() || a.sizes() != b.sizes()) {
    return false;
  }
  // As integers, so that -0 and 0 differ and a NaN equals itself.
  const auto integer = a.element_size() == 2 ? at::kShort : a.element_size() == 4 ? at::kInt : at::kLong;
  return at::equal(a.contiguous().view(integer), b.contiguous().view(integer));
}

}  // namespace

std::string weight_name(const AdaptedLinear& linear) { return linear.name + ".weight"; }

at::Tensor reread_weight(const MergeState& state, const AdaptedLinear& linear) {
  const auto& weight = linear.base->weight;
  const at::Tensor read = state.reread(weight_name(linear));
  MOELORA_CHECK(read.defined() && read.sizes() == weight.sizes(), "reading ", weight_name(linear),
                " again: expected a tensor of shape ", weight.sizes(), ", found ",
                read.defined() ? detail::concat("shape ", read.sizes()) : "nothing",
                "; pass the model folder that the base was loaded from");
  return read.to(weight.device(), weight.scalar_type());
}

at::Tensor original_weight(const MergeState& state, const AdaptedLinear& linear, std::size_t i) {
  const auto& weight = linear.base->weight;
  return state.keep == KeepBase::reread ? reread_weight(state, linear)
                                        : state.backups.at(i).to(weight.device(), weight.scalar_type());
}

void keep_original(MergeState& state, const AdaptedLinear& linear) {
  const auto& weight = linear.base->weight;
  if (state.keep == KeepBase::device) {
    state.backups.push_back(weight.detach().clone());
  } else if (state.keep == KeepBase::host) {
    state.backups.push_back(weight.detach().to(at::kCPU, weight.scalar_type(), /*non_blocking=*/false, /*copy=*/true));
  } else if (state.keep == KeepBase::reread) {
    MOELORA_CHECK(same_bytes(reread_weight(state, linear), weight.detach()), "reading ", weight_name(linear),
                  " again gives other values than the base has, so unmerging could not restore it; expected the model "
                  "folder that the base was loaded from (or keep the base on the device or the host)");
  }
}

void restore_linears(const AdapterImpl& adapter, const MergeState& state, std::size_t count) {
  at::NoGradGuard no_grad;
  for (std::size_t i = 0; i < count; ++i) {
    const auto& linear = adapter.linears()[i];
    linear.base->weight.copy_(original_weight(state, linear, i));
    linear.base->merged_adapter.clear();
  }
}

}  // namespace moelora
