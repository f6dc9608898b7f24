#include "nn/move_together.h"

#include <ATen/ops/empty.h>

#include <cstring>

namespace moelora::nn {
namespace {

constexpr std::size_t kAlignment = 16;  // of each tensor in the copy: any type can be read there

std::size_t aligned(std::size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

}  // namespace

void move_together(const std::vector<at::Tensor*>& tensors, const at::Device& device) {
  if (device.is_cpu()) {
    return;
  }
  std::size_t bytes = 0;
  for (const at::Tensor* tensor : tensors) {
    if (tensor->defined()) {
      TORCH_INTERNAL_ASSERT(tensor->is_cpu() && tensor->is_contiguous());
      bytes += aligned(tensor->nbytes());
    }
  }
  const at::Tensor packed =
      at::empty({static_cast<std::int64_t>(bytes)}, at::TensorOptions(at::kByte).pinned_memory(device.is_cuda()));
  auto* place = packed.mutable_data_ptr<std::uint8_t>();
  for (const at::Tensor* tensor : tensors) {
    if (tensor->defined() && tensor->nbytes() > 0) {
      std::memcpy(place, tensor->const_data_ptr(), tensor->nbytes());
      place += aligned(tensor->nbytes());
    }
  }
  const at::Tensor moved = packed.to(device, /*non_blocking=*/true);
  std::size_t begin = 0;
  for (at::Tensor* tensor : tensors) {
    if (tensor->defined()) {
      *tensor = moved.narrow(0, static_cast<std::int64_t>(begin), static_cast<std::int64_t>(tensor->nbytes()))
                    .view(tensor->scalar_type())
                    .view(tensor->sizes());
      begin += aligned(tensor->nbytes());
    }
  }
}

}  // namespace moelora::nn
