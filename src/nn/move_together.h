#pragma once
// Small tensors to a device in one copy: each copy of its own would cost a launch, and from unpinned memory a wait.

#include <ATen/core/Tensor.h>

#include <vector>

namespace moelora::nn {

/// Replaces contiguous tensors of the CPU by their copies on `device`: one upload for all of them, from pinned memory
/// where the device has that, so that the host goes on, and beside what the device computes. Undefined tensors stay
/// undefined; on the CPU nothing happens.
void move_together(const std::vector<at::Tensor*>& tensors, const at::Device& device);

}  // namespace moelora::nn
