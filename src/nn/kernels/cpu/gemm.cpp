#include "nn/kernels/cpu/gemm.h"

#ifdef MOELORA_HAVE_SGEMM
// Of the BLAS inside LibTorch: column-major, so that C = A B is computed as C^T = B^T A^T.
extern "C" void sgemm_(const char* op_a, const char* op_b, const int* m, const int* n, const int* k, const float* alpha,
                       const float* a, const int* stride_a, const float* b, const int* stride_b, const float* beta,
                       float* c, const int* stride_c);
#else
#include <ATen/core/grad_mode.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/from_blob.h>
#endif

namespace moelora::nn::kernels {

void gemm(Op op_a, Op op_b, std::int64_t m, std::int64_t n, std::int64_t k, float scale, const float* a,
          std::int64_t stride_a, const float* b, std::int64_t stride_b, float beta, float* c, std::int64_t stride_c) {
  if (m == 0 || n == 0) {
    return;
  }
#ifdef MOELORA_HAVE_SGEMM
  const char letter_a = op_a == Op::none ? 'N' : 'T';
  const char letter_b = op_b == Op::none ? 'N' : 'T';
  const int rows = static_cast<int>(m);
  const int columns = static_cast<int>(n);
  const int inner = static_cast<int>(k);
  const int lda = static_cast<int>(stride_a);
  const int ldb = static_cast<int>(stride_b);
  const int ldc = static_cast<int>(stride_c);
  sgemm_(&letter_b, &letter_a, &columns, &rows, &inner, &scale, b, &ldb, a, &lda, &beta, c, &ldc);
#else
  at::NoGradGuard no_grad;  // the mode is each thread's own
  const auto view = [](const float* data, Op op, std::int64_t first, std::int64_t second, std::int64_t stride) {
    const auto strides = op == Op::none ? std::array{stride, std::int64_t{1}} : std::array{std::int64_t{1}, stride};
    return at::from_blob(const_cast<float*>(data), {first, second}, strides, at::kFloat);
  };
  at::Tensor result = view(c, Op::none, m, n, stride_c);
  at::addmm_out(result, result, view(a, op_a, m, k, stride_a), view(b, op_b, k, n, stride_b), beta, scale);
#endif
}

}  // namespace moelora::nn::kernels
