#include "nn/kernels/cuda/attention_gradients.h"

#include "nn/kernels/cuda/code/attention_gradients.cuh"
#include "nn/kernels/cuda/packs.h"

namespace moelora::nn::kernels {

void join_gradients(const HeadGradients& parts, const HeadGradients& causal, const at::Tensor& causal_of_row,
                    const at::Tensor& dq, const at::Tensor& dk, const at::Tensor& dv) {
  for (const at::Tensor* x : {&parts.dq, &parts.dk, &parts.dv, &causal.dq, &causal.dk, &causal.dv}) {
    TORCH_INTERNAL_ASSERT(!x->defined() || x->is_contiguous());
  }
  TORCH_INTERNAL_ASSERT(dq.stride(2) == 1 && dk.stride(2) == 1 && dv.stride(2) == 1);
  const bool packs =
      in_packs({dq.size(2), dq.stride(0), dq.stride(1), dk.stride(0), dk.stride(1), dv.stride(0), dv.stride(1)},
               {&parts.dq, &parts.dk, &parts.dv, &causal.dq, &causal.dk, &causal.dv, &dq, &dk, &dv});
  with_packs(dq.scalar_type(), packs, [&]<typename T, typename N>(T, N) {
    const auto places = [](const at::Tensor& x) {
      return device::HeadPlaces<T>{mutable_elements<T>(x), x.stride(0), x.stride(1)};
    };
    launch(dq.device(),
           device::JoinGradients<T, N::value>{elements<T>(parts.dq), elements<T>(parts.dk), elements<T>(parts.dv),
                                              elements<T>(causal.dq), elements<T>(causal.dk), elements<T>(causal.dv),
                                              elements<std::int32_t>(causal_of_row), places(dq), places(dk), places(dv),
                                              static_cast<std::int32_t>(dq.size(1)),
                                              static_cast<std::int32_t>(dk.size(1)), dq.size(2)},
           {static_cast<std::uint32_t>(dq.size(0)), 3});
  });
}

std::vector<KernelInfo> attention_gradient_kernels() { return packed_kernels<device::JoinGradients>(); }

}  // namespace moelora::nn::kernels
