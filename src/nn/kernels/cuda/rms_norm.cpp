#include "nn/kernels/cuda/rms_norm.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include "nn/kernels/cuda/code/rms_norm.cuh"
#include "nn/kernels/cuda/packs.h"

namespace moelora::nn::kernels {
namespace {

Grid block_for_each(const at::Tensor& rows) { return {static_cast<std::uint32_t>(rows.size(0))}; }

bool goes_with(const at::Tensor& y, const at::Tensor& x) {
  return !y.defined() || (y.is_contiguous() && y.sizes() == x.sizes() && y.scalar_type() == x.scalar_type());
}

}  // namespace

bool has_rms_norm_kernels(const at::Tensor& x, const at::Tensor& weight) {
  return has_device_kernels(x) && x.dim() == 2 && x.is_contiguous() && weight.scalar_type() == x.scalar_type() &&
         weight.is_contiguous();
}

RmsNormalisedOnDevice add_and_rms_normalise(const at::Tensor& x, const at::Tensor& residual, const at::Tensor& weight,
                                            double epsilon) {
  TORCH_INTERNAL_ASSERT(x.is_contiguous() && goes_with(residual, x));
  RmsNormalisedOnDevice result{at::empty_like(x), at::empty({x.size(0), 1}, x.options().dtype(at::kFloat))};
  const bool packs = in_packs({x.size(1)}, {&x, &residual, &weight, &result.y});
  with_packs(x.scalar_type(), packs, [&]<typename T, typename N>(T, N) {
    launch(x.device(),
           device::AddAndRmsNormalise<T, N::value>{mutable_elements<T>(x), elements<T>(residual), elements<T>(weight),
                                                   mutable_elements<T>(result.y), mutable_elements<float>(result.rstd),
                                                   static_cast<std::int32_t>(x.size(1)), static_cast<float>(epsilon)},
           block_for_each(x));
  });
  return result;
}

at::Tensor rms_normalise_again(const at::Tensor& x, const at::Tensor& rstd, const at::Tensor& weight) {
  TORCH_INTERNAL_ASSERT(x.is_contiguous() && rstd.scalar_type() == at::kFloat);
  at::Tensor y = at::empty_like(x);
  with_packs(x.scalar_type(), in_packs({x.size(1)}, {&x, &weight, &y}), [&]<typename T, typename N>(T, N) {
    launch(x.device(),
           device::RmsNormaliseAgain<T, N::value>{elements<T>(x), elements<float>(rstd), elements<T>(weight),
                                                  mutable_elements<T>(y), x.size(1)},
           block_for_each(x));
  });
  return y;
}

void rms_normalise_backward_(const at::Tensor& dy, const at::Tensor& dresidual, const at::Tensor& x,
                             const at::Tensor& rstd, const at::Tensor& weight) {
  TORCH_INTERNAL_ASSERT(x.is_contiguous() && goes_with(dy, x) && goes_with(dresidual, x) &&
                        rstd.scalar_type() == at::kFloat);
  const bool packs = in_packs({x.size(1)}, {&dy, &dresidual, &x, &weight});
  with_packs(x.scalar_type(), packs, [&]<typename T, typename N>(T, N) {
    launch(x.device(),
           device::RmsNormaliseBackward<T, N::value>{mutable_elements<T>(dy), elements<T>(dresidual), elements<T>(x),
                                                     elements<float>(rstd), elements<T>(weight), x.size(1)},
           block_for_each(x));
  });
}

std::vector<KernelInfo> rms_norm_kernels() {
  return packed_kernels<device::AddAndRmsNormalise, device::RmsNormaliseAgain, device::RmsNormaliseBackward>();
}

}  // namespace moelora::nn::kernels
