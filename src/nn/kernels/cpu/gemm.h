#pragma once
// Small products inside a parallel region, row-major fp32: LibTorch's own BLAS called directly, because a tensor
// operation costs microseconds each.

#include <cstdint>

namespace moelora::nn::kernels {

enum class Op { none, transpose };

/// C [m, n] = scale · op(A) [m, k] · op(B) [k, n] + beta · C. Leading dimensions are row strides, in elements.
void gemm(Op op_a, Op op_b, std::int64_t m, std::int64_t n, std::int64_t k, float scale, const float* a,
          std::int64_t stride_a, const float* b, std::int64_t stride_b, float beta, float* c, std::int64_t stride_c);

}  // namespace moelora::nn::kernels
