#include "nn/kernels/cuda/rotary.h"

#include "nn/kernels/cuda/code/rotary.cuh"
#include "nn/kernels/cuda/packs.h"

namespace moelora::nn::kernels {
namespace {

device::RotaryPairs pairs_of(const Rotary& rotary) {
  const auto dim = static_cast<std::int32_t>(rotary.rotary_dim());
  const bool interleaved = rotary.pairing == RotaryPairing::interleaved;
  const std::int32_t block = rotary.pairing == RotaryPairing::two_axes ? dim / 2 : dim;
  return {dim, block, interleaved ? 1 : block / 2, interleaved ? 2 : 1};
}

}  // namespace

void rotate_rows(const at::Tensor& q, const at::Tensor& k, const Rotary& rotary, bool inverse) {
  const at::Tensor& keys = k.defined() ? k : q;
  const at::Tensor cos = rotary.tables.cos.contiguous();
  const at::Tensor sin = rotary.tables.sin.contiguous();
  TORCH_INTERNAL_ASSERT(q.stride(2) == 1 && keys.stride(2) == 1 && keys.scalar_type() == q.scalar_type() &&
                        cos.scalar_type() == q.scalar_type() && sin.scalar_type() == q.scalar_type() &&
                        cos.size(0) == q.size(0) && q.size(2) >= rotary.rotary_dim());
  const device::RotaryPairs pairs = pairs_of(rotary);
  const bool packs =
      pairs.step == 1 && in_packs({pairs.dim, pairs.offset, q.stride(0), q.stride(1), keys.stride(0), keys.stride(1)},
                                  {&q, &keys, &cos, &sin});
  with_packs(q.scalar_type(), packs, [&]<typename T, typename N>(T, N) {
    launch(q.device(),
           device::RotateRows<T, N::value>{mutable_elements<T>(q), mutable_elements<T>(keys), q.stride(0), q.stride(1),
                                           keys.stride(0), keys.stride(1), elements<T>(cos), elements<T>(sin), pairs,
                                           q.size(1), static_cast<std::int32_t>(k.defined() ? k.size(1) : 0),
                                           inverse ? -1.0f : 1.0f},
           {static_cast<std::uint32_t>(q.size(0))});
  });
}

std::vector<KernelInfo> rotary_kernels() { return packed_kernels<device::RotateRows>(); }

}  // namespace moelora::nn::kernels
