#include "nn/kernels/cuda/fold.h"

#include <ATen/ops/amax.h>
#include <ATen/ops/empty.h>

#include "nn/kernels/cuda/code/fold.cuh"
#include "nn/kernels/cuda/packs.h"

namespace moelora::nn::kernels {

bool folds_on_device(const at::Tensor& out, const at::Tensor& source) {
  return has_device_kernels(out) && source.device() == out.device() && source.scalar_type() == out.scalar_type() &&
         out.dim() == 2 && out.numel() > 0 && out.is_contiguous() && source.is_contiguous();
}

at::Tensor fold_on_device(const at::Tensor& out, const at::Tensor& source, const at::Tensor& B, const at::Tensor& A,
                          bool measure) {
  const std::int64_t rows = out.size(0);
  const std::int64_t columns = out.size(1);
  const at::Tensor left = in_packs({}, {&B}) ? B.contiguous() : B.clone(at::MemoryFormat::Contiguous);
  const at::Tensor right = A.contiguous();
  TORCH_INTERNAL_ASSERT(source.sizes() == out.sizes() && left.scalar_type() == at::kFloat &&
                        right.scalar_type() == at::kFloat && left.size(0) == rows && right.size(1) == columns &&
                        left.size(1) == right.size(0));
  const bool packs = in_packs({columns}, {&out, &source, &right});
  at::Tensor extremes;
  with_packs(out.scalar_type(), packs, [&]<typename T, typename N>(T, N) {
    using Kernel = device::Fold<T, N::value>;
    const Grid grid{blocks_for(rows, Kernel::kBlockRows), blocks_for(columns, Kernel::kBlockColumns)};
    if (measure) {
      extremes =
          at::empty({2, static_cast<std::int64_t>(grid.blocks) * grid.blocks_y}, out.options().dtype(at::kDouble));
    }
    launch(out.device(),
           Kernel{elements<T>(source), mutable_elements<T>(out), elements<float>(left), elements<float>(right), rows,
                  columns, right.size(0), mutable_elements<double>(extremes)},
           grid);
  });
  return measure ? at::amax(extremes, {1}) : at::Tensor();
}

std::vector<KernelInfo> fold_kernels() { return packed_kernels<device::Fold>(); }

}  // namespace moelora::nn::kernels
