#include "nn/kernels/cpu/fold.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <mutex>
#include <vector>

#include "nn/kernels/cpu/stored_dtype.h"

namespace moelora::nn::kernels {
namespace {

double larger_or_nan(double a, double b) { return a >= b || a != a ? a : b; }

/// A as FoldRows wants it.
at::Tensor panels_of(const at::Tensor& A, std::int64_t width, bool even_first) {
  const std::int64_t r = A.size(0);
  const std::int64_t columns = A.size(1);
  const std::int64_t count = (columns + width - 1) / width;
  at::Tensor panels = at::empty({count, r, width}, at::TensorOptions(at::kFloat));
  const auto* from = A.const_data_ptr<float>();
  auto* to = panels.mutable_data_ptr<float>();
  at::parallel_for(0, count, std::max<std::int64_t>(1, 16384 / (r * width)), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t panel = begin; panel < end; ++panel) {
      const std::int64_t held = std::min(width, columns - panel * width);
      for (std::int64_t k = 0; k < r; ++k) {
        float* row = to + (panel * r + k) * width;
        const float* source = from + k * columns + panel * width;
        std::fill(row + held, row + width, 0.0f);
        if (!even_first) {
          std::copy_n(source, held, row);
          continue;
        }
        for (std::int64_t c = 0; c < width / 2; ++c) {
          row[c] = 2 * c < held ? source[2 * c] : 0.0f;
          row[width / 2 + c] = 2 * c + 1 < held ? source[2 * c + 1] : 0.0f;
        }
      }
    }
  });
  return panels;
}

}  // namespace

FoldExtremes larger_of(const FoldExtremes& a, const FoldExtremes& b) {
  return {larger_or_nan(a.rounding, b.rounding), larger_or_nan(a.update, b.update)};
}

bool folds_in_one_pass(const at::Tensor& out, const at::Tensor& source) {
  return out.is_cpu() && source.is_cpu() && out.dim() == 2 && out.numel() > 0 && out.is_contiguous() &&
         source.is_contiguous() && source.scalar_type() == out.scalar_type() && is_stored(out.scalar_type());
}

FoldExtremes fold_in_one_pass(const at::Tensor& out, const at::Tensor& source, const at::Tensor& B, const at::Tensor& A,
                              bool measure, const CpuKernels& kernels) {
  const std::int64_t rows = out.size(0);
  const std::int64_t columns = out.size(1);
  const at::Tensor factors = B.contiguous();
  const at::Tensor panels = panels_of(A.contiguous(), kernels.fold_columns, out.scalar_type() == at::kBFloat16);
  FoldRows fold{};
  fold.out = out.mutable_data_ptr();
  fold.source = source.const_data_ptr();
  fold.stored = stored(out.scalar_type());
  fold.columns = columns;
  fold.rank = A.size(0);
  fold.b = factors.const_data_ptr<float>();
  fold.panels = panels.const_data_ptr<float>();
  // A stored line that is not read first, as it is in place, would be fetched only to be overwritten.
  fold.streams = fold.out != fold.source && reinterpret_cast<std::uintptr_t>(fold.out) % 64 == 0 &&
                 columns * out.element_size() % 64 == 0;
  fold.measure = measure;
  FoldExtremes extremes;
  std::mutex mutex;
  const std::int64_t at_once = kernels.fold_at_once;
  const std::int64_t blocks = (rows + at_once - 1) / at_once;
  const std::int64_t grain = std::max<std::int64_t>(1, 65536 / (at_once * std::max<std::int64_t>(columns, 1)));
  at::parallel_for(0, blocks, grain, [&](std::int64_t begin, std::int64_t end) {
    std::vector<float> kept(static_cast<std::size_t>(measure && fold.stored == Stored::fp32 ? at_once * columns : 0));
    FoldRows call = fold;
    call.kept = kept.data();
    const FoldExtremes mine = kernels.fold_rows(call, begin * at_once, std::min(end * at_once, rows));
    const std::lock_guard lock(mutex);
    extremes = larger_of(extremes, mine);
  });
  return extremes;
}

}  // namespace moelora::nn::kernels
