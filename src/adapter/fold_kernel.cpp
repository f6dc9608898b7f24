#include "adapter/fold_kernel.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <mutex>
#include <type_traits>
#include <vector>

#include "adapter/fold_lanes.h"

namespace moelora {
namespace {

template <typename Scalar>
struct Fold {
  Scalar* out;
  const Scalar* source;
  std::int64_t columns;
  std::int64_t r;
  const float* B;
  const float* panels;
  bool streams;  ///< Written past the caches: out is another tensor than source, and its rows are aligned.
};

#if defined(MOELORA_FOLD_X86)
#pragma GCC diagnostic push
// GCC 12 takes the "undefined" operands of its own AVX-512 header for mistakes.
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
namespace fold_avx512 {
using Lanes = fold::Avx512Lanes;
#define MOELORA_FOLD_TARGET MOELORA_TARGET_AVX512
#include "adapter/fold_rows.h"
#undef MOELORA_FOLD_TARGET
}  // namespace fold_avx512
#pragma GCC diagnostic pop

namespace fold_avx2 {
using Lanes = fold::Avx2Lanes;
#define MOELORA_FOLD_TARGET MOELORA_TARGET_AVX2
#include "adapter/fold_rows.h"
#undef MOELORA_FOLD_TARGET
}  // namespace fold_avx2
#endif

namespace fold_portable {
using Lanes = fold::PortableLanes;
#define MOELORA_FOLD_TARGET
#include "adapter/fold_rows.h"
#undef MOELORA_FOLD_TARGET
}  // namespace fold_portable

template <typename Scalar>
struct FoldRange {
  std::int64_t columns;  ///< of a panel
  std::int64_t rows;     ///< at once
  FoldExtremes (*fold)(const Fold<Scalar>&, std::int64_t, std::int64_t, bool);
};

template <typename Scalar>
FoldRange<Scalar> range_of([[maybe_unused]] FoldLanes lanes) {
#if defined(MOELORA_FOLD_X86)
  if (lanes == FoldLanes::widest && fold::avx512_present()) {
    return {fold_avx512::kColumns, fold_avx512::kRows, fold_avx512::fold_range<Scalar>};
  }
  if (lanes != FoldLanes::portable && fold::avx2_present()) {
    return {fold_avx2::kColumns, fold_avx2::kRows, fold_avx2::fold_range<Scalar>};
  }
#endif
  return {fold_portable::kColumns, fold_portable::kRows, fold_portable::fold_range<Scalar>};
}

/// A as fold_rows.h wants it.
at::Tensor panels_of(const at::Tensor& A, std::int64_t width) {
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
        std::copy_n(from + k * columns + panel * width, held, row);
        std::fill(row + held, row + width, 0.0f);
      }
    }
  });
  return panels;
}

template <typename Scalar>
FoldExtremes fold_matrix(const at::Tensor& out, const at::Tensor& source, const at::Tensor& B, const at::Tensor& A,
                         bool measure, FoldLanes lanes) {
  const FoldRange<Scalar> range = range_of<Scalar>(lanes);
  const std::int64_t rows = out.size(0);
  const std::int64_t columns = out.size(1);
  const at::Tensor factors = B.contiguous();
  const at::Tensor panels = panels_of(A.contiguous(), range.columns);
  Fold<Scalar> fold{out.mutable_data_ptr<Scalar>(),
                    source.const_data_ptr<Scalar>(),
                    columns,
                    A.size(0),
                    factors.const_data_ptr<float>(),
                    panels.const_data_ptr<float>(),
                    /*streams=*/false};
  // A stored line that is not read first, as it is in place, would be fetched only to be overwritten.
  fold.streams = fold.out != fold.source && reinterpret_cast<std::uintptr_t>(fold.out) % 64 == 0 &&
                 columns * static_cast<std::int64_t>(sizeof(Scalar)) % 64 == 0;
  FoldExtremes extremes;
  std::mutex mutex;
  const std::int64_t blocks = (rows + range.rows - 1) / range.rows;
  const std::int64_t grain = std::max<std::int64_t>(1, 65536 / (range.rows * std::max<std::int64_t>(columns, 1)));
  at::parallel_for(0, blocks, grain, [&](std::int64_t begin, std::int64_t end) {
    const FoldExtremes mine = range.fold(fold, begin * range.rows, std::min(end * range.rows, rows), measure);
    const std::lock_guard lock(mutex);
    extremes.include(mine);
  });
  return extremes;
}

}  // namespace

bool folds_in_one_pass(const at::Tensor& out, const at::Tensor& source) {
  const auto dtype = out.scalar_type();
  return out.is_cpu() && source.is_cpu() && out.dim() == 2 && out.numel() > 0 && out.is_contiguous() &&
         source.is_contiguous() && source.scalar_type() == dtype &&
         (dtype == at::kFloat || dtype == at::kHalf || dtype == at::kBFloat16);
}

FoldExtremes fold_in_one_pass(const at::Tensor& out, const at::Tensor& source, const at::Tensor& B, const at::Tensor& A,
                              bool measure, FoldLanes lanes) {
  switch (out.scalar_type()) {
    case at::kHalf:
      return fold_matrix<c10::Half>(out, source, B, A, measure, lanes);
    case at::kBFloat16:
      return fold_matrix<c10::BFloat16>(out, source, B, A, measure, lanes);
    default:
      return fold_matrix<float>(out, source, B, A, measure, lanes);
  }
}

}  // namespace moelora
