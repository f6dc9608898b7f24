#include "nn/kernels/cuda/gelu.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include "nn/kernels/cuda/code/gelu.cuh"
#include "nn/kernels/cuda/packs.h"

namespace moelora::nn::kernels {
namespace {

// start(T{}, N{}, grid) for elementwise work on tensors of one shape.
template <typename Start>
void elementwise(std::initializer_list<const at::Tensor*> tensors, const Start& start) {
  const at::Tensor& first = **tensors.begin();
  for (const at::Tensor* x : tensors) {
    TORCH_INTERNAL_ASSERT(x->is_contiguous() && x->sizes() == first.sizes() && x->dtype() == first.dtype());
  }
  with_packs(first.scalar_type(), in_packs({first.numel()}, tensors), [&]<typename T, typename N>(T element, N n) {
    start(element, n, Grid{blocks_for(first.numel(), N::value * device::Gelu<T, N::value>::kThreads)});
  });
}

// start(T{}, N{}, grid) for work on tensors [rows, width] with a unit last stride.
template <typename Start>
void by_rows(std::initializer_list<const at::Tensor*> tensors, const Start& start) {
  const at::Tensor& first = **tensors.begin();
  bool packs = in_packs({first.size(1)}, tensors);
  for (const at::Tensor* x : tensors) {
    TORCH_INTERNAL_ASSERT(x->dim() == 2 && (x->size(1) <= 1 || x->stride(1) == 1) && x->sizes() == first.sizes() &&
                          x->dtype() == first.dtype());
    packs = packs && x->stride(0) % kPack == 0;
  }
  with_packs(first.scalar_type(), packs, [&]<typename T, typename N>(T element, N n) {
    start(element, n,
          Grid{static_cast<std::uint32_t>(first.size(0)),
               blocks_for(first.size(1), N::value * device::SwiGlu<T, N::value>::kThreads)});
  });
}

}  // namespace

at::Tensor gelu_on_device(const at::Tensor& x) {
  at::Tensor y = at::empty_like(x);
  elementwise({&x, &y}, [&]<typename T, typename N>(T, N, Grid grid) {
    launch(x.device(), device::Gelu<T, N::value>{elements<T>(x), mutable_elements<T>(y), x.numel()}, grid);
  });
  return y;
}

void gelu_backward_on_device_(const at::Tensor& dy, const at::Tensor& x) {
  elementwise({&x, &dy}, [&]<typename T, typename N>(T, N, Grid grid) {
    launch(x.device(), device::GeluBackward<T, N::value>{elements<T>(x), mutable_elements<T>(dy), x.numel()}, grid);
  });
}

at::Tensor swiglu_on_device(const at::Tensor& gate, const at::Tensor& up) {
  at::Tensor y = at::empty(gate.sizes(), gate.options());
  by_rows({&gate, &up, &y}, [&]<typename T, typename N>(T, N, Grid grid) {
    launch(gate.device(),
           device::SwiGlu<T, N::value>{elements<T>(gate), elements<T>(up), mutable_elements<T>(y), gate.stride(0),
                                       up.stride(0), gate.size(1)},
           grid);
  });
  return y;
}

void swiglu_backward_on_device(const at::Tensor& dy, const at::Tensor& gate, const at::Tensor& up,
                               const at::Tensor& dgate, const at::Tensor& dup) {
  TORCH_INTERNAL_ASSERT(dy.is_contiguous());
  by_rows({&gate, &up, &dy, &dgate, &dup}, [&]<typename T, typename N>(T, N, Grid grid) {
    launch(gate.device(),
           device::SwiGluBackward<T, N::value>{elements<T>(gate), elements<T>(up), elements<T>(dy),
                                               mutable_elements<T>(dgate), mutable_elements<T>(dup), gate.stride(0),
                                               up.stride(0), dgate.stride(0), dup.stride(0), gate.size(1)},
           grid);
  });
}

std::vector<KernelInfo> gelu_kernels() {
  return packed_kernels<device::Gelu, device::GeluBackward, device::SwiGlu, device::SwiGluBackward>();
}

}  // namespace moelora::nn::kernels
