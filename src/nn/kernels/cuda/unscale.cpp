#include "nn/kernels/cuda/unscale.h"

#include <ATen/ops/empty.h>

#include <algorithm>

#include "nn/kernels/cuda/code/unscale.cuh"

namespace moelora::nn::kernels {
namespace {

// Some tensors of fp32, contiguous, on one device.
bool are_alike(const std::vector<at::Tensor>& gradients) {
  return !gradients.empty() && std::all_of(gradients.begin(), gradients.end(), [&](const at::Tensor& gradient) {
    return gradient.scalar_type() == at::kFloat && gradient.is_contiguous() &&
           gradient.device() == gradients.front().device();
  });
}

std::int64_t chunks_of(const at::Tensor& gradient) { return blocks_for(gradient.numel(), device::SquareSums::kChunk); }

}  // namespace

bool has_unscale_kernels(const std::vector<at::Tensor>& gradients) {
  return are_alike(gradients) && has_device_kernels(gradients.front());
}

StepDecision decide_step(const std::vector<at::Tensor>& gradients, const at::Tensor& loss_scale, double max_norm) {
  TORCH_INTERNAL_ASSERT(are_alike(gradients));
  const at::Device device = gradients.front().device();
  std::int64_t chunks = 0;
  for (const at::Tensor& gradient : gradients) {
    chunks += chunks_of(gradient);
  }
  const at::Tensor sums = at::empty({chunks}, gradients.front().options());
  const at::Tensor decision = at::empty({3}, gradients.front().options());
  std::int64_t done = 0;
  for (std::size_t begin = 0; begin < gradients.size(); begin += device::SquareSums::kTensors) {
    const std::size_t end = std::min(gradients.size(), begin + device::SquareSums::kTensors);
    device::SquareSums of_some{};
    std::int64_t blocks = 0;
    for (std::size_t i = begin; i < end; ++i) {
      if (gradients[i].numel() > 0) {
        of_some.tensors[of_some.count] = elements<float>(gradients[i]);
        of_some.sizes[of_some.count] = gradients[i].numel();
        of_some.first_block[of_some.count++] = static_cast<std::int32_t>(blocks);
        blocks += chunks_of(gradients[i]);
      }
    }
    of_some.first_block[of_some.count] = static_cast<std::int32_t>(blocks);
    of_some.sums = mutable_elements<float>(sums) + done;
    launch(device, of_some, {static_cast<std::uint32_t>(blocks)});
    done += blocks;
  }
  launch(device,
         device::DecideStep{elements<float>(sums), chunks, elements<float>(loss_scale), static_cast<float>(max_norm),
                            mutable_elements<float>(decision)},
         {1});
  return {decision.select(0, 0), decision.select(0, 1), decision.select(0, 2)};
}

std::vector<KernelInfo> unscale_kernels() {
  return {kernel_info<device::SquareSums>(), kernel_info<device::DecideStep>()};
}

}  // namespace moelora::nn::kernels
