#pragma once
// The base's own bytes while an adapter is merged into it.

#include <ATen/core/Tensor.h>

#include <functional>
#include <string>
#include <vector>

#include "moelora/adapter/merge.h"

namespace moelora {

/// What an adapter remembers while it is merged.
struct MergeState {
  MergeOptions::KeepBase keep = MergeOptions::KeepBase::device;
  std::vector<at::Tensor> backups;  ///< By linear; empty unless keep is device or host.
  std::function<at::Tensor(const std::string&)> reread;
};

std::string weight_name(const AdapterImpl::AdaptedLinear& linear);

/// The weight as the file has it, in the dtype and on the device of the linear.
at::Tensor reread_weight(const MergeState& state, const AdapterImpl::AdaptedLinear& linear);

/// The original bytes of linear `i`, on its device.
at::Tensor original_weight(const MergeState& state, const AdapterImpl::AdaptedLinear& linear, std::size_t i);

/// Makes sure that the bytes of the next linear, unmerged now, can be had again.
void keep_original(MergeState& state, const AdapterImpl::AdaptedLinear& linear);

/// Gives the first `count` linears their original bytes.
void restore_linears(const AdapterImpl& adapter, const MergeState& state, std::size_t count);

}  // namespace moelora
