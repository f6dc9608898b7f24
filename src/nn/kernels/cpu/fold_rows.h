#pragma once
// Rows of a weight to which a low-rank update is added in place, or from another copy of the weight.

#include <cstdint>

#include "nn/kernels/cpu/stored.h"

namespace moelora::nn::kernels {

/// What a fold did to the elements; NaN or infinite rounding: some sum left the range of the dtype.
struct FoldExtremes {
  double rounding = 0.0;  ///< max |out - (source + B A)|
  double update = 0.0;    ///< max |B A|
};

/// out = round(source + B A). Each sum is accumulated in fp32 in ascending order of rank and rounded once.
struct FoldRows {
  void* out;           ///< [rows, columns]
  const void* source;  ///< [rows, columns]; may be out
  Stored stored;       ///< of both
  std::int64_t columns, rank;
  const float* b;       ///< [rows, rank]
  const float* panels;  ///< A [rank, columns] as [panels, rank, fold_columns]: CpuKernels::fold_columns of its columns
                        ///< lie together, zeros behind the last; for
                        ///< bf16 the even ones of a panel before the odd ones
  bool streams;         ///< Written past the caches: out is another tensor than source, and its rows are aligned.
  bool measure;  ///< Whether the extremes are wanted (zeros without): for fp32 the sums are then made in fp64 too.
  float* kept;   ///< room for fold_at_once · columns elements where fp32 is measured
};

}  // namespace moelora::nn::kernels
