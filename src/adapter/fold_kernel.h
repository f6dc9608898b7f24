#pragma once
// round(source + B A) in one pass over a weight on the CPU: the product's panel of A stays in cache, eight rows of sums
// stay in registers, and the weight is read and written once. Merging then costs about what copying the weight costs.

#include <ATen/core/Tensor.h>

namespace moelora {

/// What a fold did to the numbers; NaN or infinite rounding: some sum left the range of the dtype.
struct FoldExtremes {
  double rounding = 0.0;  ///< max |out - (source + B A)|
  double update = 0.0;    ///< max |B A|

  void include(const FoldExtremes& other) {
    rounding = larger(rounding, other.rounding);
    update = larger(update, other.update);
  }

 private:
  static double larger(double a, double b) { return a >= b || a != a ? a : b; }  // a NaN stays, wherever it comes from
};

/// Instructions to use: the machine's widest, or narrower ones where it has them (for tests).
enum class FoldLanes { widest, avx2, portable };

/// True for contiguous fp32, fp16 and bf16 matrices on the CPU.
bool folds_in_one_pass(const at::Tensor& out, const at::Tensor& source);

/// out = round(source + B A); out and source [rows, columns] of one dtype (source may be out), B [rows, r] and A
/// [r, columns] fp32. Each sum is accumulated in fp32 in ascending order of r and rounded once, whatever the number of
/// threads, the block that the row falls into, and `measure`. The extremes (zeros without `measure`) compare with the
/// sum in fp32 for fp16 and bf16, in fp64 for fp32.
FoldExtremes fold_in_one_pass(const at::Tensor& out, const at::Tensor& source, const at::Tensor& B, const at::Tensor& A,
                              bool measure, FoldLanes lanes = FoldLanes::widest);

}  // namespace moelora
