#include "nn/kernels/cuda/dropout.h"

#include <ATen/ops/empty_like.h>

#include "nn/dropout_mask.h"
#include "nn/kernels/cuda/packs.h"

namespace moelora::nn::kernels {

device::KeyedMask device_mask(double p, std::uint64_t linear, const RowContext& context) {
  if (p == 0.0 || !context.dropout.active()) {
    return {nullptr, nullptr, 0, 0, 1.0f};
  }
  TORCH_INTERNAL_ASSERT(context.draw_of_row.defined(), "the context was made without its draws");
  return {elements<std::int64_t>(context.draw_of_row), elements<std::int64_t>(context.row_in_segment),
          dropout_stem(context.dropout.seed, linear), dropout_threshold(p), dropout_scale(p)};
}

at::Tensor drop_rows(const at::Tensor& x, const device::KeyedMask& mask) {
  const at::Tensor input = x.contiguous();
  at::Tensor output = at::empty_like(input);
  with_packs(x.scalar_type(), in_packs({x.size(1)}, {&input, &output}), [&]<typename T, typename N>(T, N) {
    launch(x.device(),
           device::DropRows<T, N::value>{elements<T>(input), mutable_elements<T>(output), mask, input.size(1)},
           {static_cast<std::uint32_t>(input.size(0))});
  });
  return output;
}

std::vector<KernelInfo> dropout_kernels() { return packed_kernels<device::DropRows>(); }

}  // namespace moelora::nn::kernels
