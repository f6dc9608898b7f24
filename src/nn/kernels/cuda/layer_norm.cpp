#include "nn/kernels/cuda/layer_norm.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include "nn/kernels/cuda/code/layer_norm.cuh"
#include "nn/kernels/cuda/packs.h"

namespace moelora::nn::kernels {
namespace {

Grid block_for_each_row(const at::Tensor& x) { return {static_cast<std::uint32_t>(x.size(0))}; }

}  // namespace

bool has_norm_kernels(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  return has_device_kernels(x) && x.dim() == 2 && x.is_contiguous() && weight.scalar_type() == x.scalar_type() &&
         bias.scalar_type() == x.scalar_type();
}

NormalisedOnDevice add_and_normalise(const at::Tensor& x, const at::Tensor& residual, double scale,
                                     const at::Tensor& weight, const at::Tensor& bias, double epsilon) {
  TORCH_INTERNAL_ASSERT(x.is_contiguous() &&
                        (!residual.defined() || (residual.is_contiguous() && residual.sizes() == x.sizes())));
  const auto statistics = x.options().dtype(at::kFloat);
  NormalisedOnDevice result{at::empty_like(x), at::empty({x.size(0), 1}, statistics),
                            at::empty({x.size(0), 1}, statistics)};
  const bool packs = in_packs({x.size(1)}, {&x, &residual, &weight, &bias, &result.y});
  with_packs(x.scalar_type(), packs, [&]<typename T, typename N>(T, N) {
    launch(x.device(),
           device::AddAndNormalise<T, N::value>{
               mutable_elements<T>(x), elements<T>(residual), static_cast<float>(scale), static_cast<float>(epsilon),
               elements<T>(weight), elements<T>(bias), mutable_elements<T>(result.y),
               mutable_elements<float>(result.mean), mutable_elements<float>(result.rstd), x.size(1)},
           block_for_each_row(x));
  });
  return result;
}

at::Tensor normalise_again(const at::Tensor& x, const at::Tensor& mean, const at::Tensor& rstd,
                           const at::Tensor& weight, const at::Tensor& bias) {
  TORCH_INTERNAL_ASSERT(x.is_contiguous() && mean.scalar_type() == at::kFloat && rstd.scalar_type() == at::kFloat);
  at::Tensor y = at::empty_like(x);
  with_packs(x.scalar_type(), in_packs({x.size(1)}, {&x, &weight, &bias, &y}), [&]<typename T, typename N>(T, N) {
    launch(
        x.device(),
        device::NormaliseAgain<T, N::value>{elements<T>(x), elements<float>(mean), elements<float>(rstd),
                                            elements<T>(weight), elements<T>(bias), mutable_elements<T>(y), x.size(1)},
        block_for_each_row(x));
  });
  return y;
}

void normalise_backward_(const at::Tensor& dy, const at::Tensor& dresidual, double scale, const at::Tensor& x,
                         const at::Tensor& mean, const at::Tensor& rstd, const at::Tensor& weight) {
  TORCH_INTERNAL_ASSERT(dy.is_contiguous() && x.is_contiguous() && dy.sizes() == x.sizes() &&
                        (!dresidual.defined() || (dresidual.is_contiguous() && dresidual.sizes() == x.sizes())) &&
                        mean.scalar_type() == at::kFloat && rstd.scalar_type() == at::kFloat);
  const bool packs = in_packs({x.size(1)}, {&dy, &dresidual, &x, &weight});
  with_packs(x.scalar_type(), packs, [&]<typename T, typename N>(T, N) {
    launch(x.device(),
           device::NormaliseBackward<T, N::value>{mutable_elements<T>(dy), elements<T>(dresidual),
                                                  static_cast<float>(scale), static_cast<std::int32_t>(x.size(1)),
                                                  elements<T>(x), elements<float>(mean), elements<float>(rstd),
                                                  elements<T>(weight)},
           block_for_each_row(x));
  });
}

std::vector<KernelInfo> layer_norm_kernels() {
  return packed_kernels<device::AddAndNormalise, device::NormaliseAgain, device::NormaliseBackward>();
}

}  // namespace moelora::nn::kernels
