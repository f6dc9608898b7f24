#include "nn/kernels/cuda/cross_entropy.h"

#include "nn/kernels/cuda/code/cross_entropy.cuh"
#include "nn/kernels/cuda/packs.h"

namespace moelora::nn::kernels {

void cross_entropy_(const at::Tensor& logits, const at::Tensor& labels, const at::Tensor& losses,
                    double gradient_scale) {
  TORCH_INTERNAL_ASSERT(logits.is_contiguous() && labels.is_contiguous() && losses.is_contiguous() &&
                        labels.scalar_type() == at::kLong && losses.scalar_type() == at::kFloat &&
                        labels.numel() == logits.size(0) && losses.numel() == logits.size(0));
  with_packs(logits.scalar_type(), in_packs({logits.size(1)}, {&logits}), [&]<typename T, typename N>(T, N) {
    launch(logits.device(),
           device::CrossEntropy<T, N::value>{mutable_elements<T>(logits), elements<std::int64_t>(labels),
                                             mutable_elements<float>(losses), static_cast<float>(gradient_scale),
                                             static_cast<std::int32_t>(logits.size(1))},
           {static_cast<std::uint32_t>(logits.size(0))});
  });
}

std::vector<KernelInfo> cross_entropy_kernels() { return packed_kernels<device::CrossEntropy>(); }

}  // namespace moelora::nn::kernels
