#pragma once
// The inner loops of decoding, on plain pointers: products of a few rows with a weight that is read once, and attention
// of one row. Compiled once for each instruction set from row_kernels_body.h; no LibTorch header may be included there,
// because inline functions of a file that is compiled for a newer processor could be linked into everything else.

#include <cstdint>

namespace moelora::nn::kernels {

/// How numbers lie in memory; all arithmetic is fp32.
enum class Stored { fp32, fp16, bf16 };

/// y = x W^T + v B^T + bias. Each number of y is one sum in an order that depends on nothing but d_in and rank: not on
/// the other rows, the range of outputs or the thread.
struct FewRows {
  const float* x;      ///< [rows, d_in]
  const void* weight;  ///< [d_out, d_in]
  Stored stored;       ///< of weight
  const float* v;      ///< [rows, rank]; unused for rank 0
  const float* b;      ///< [d_out, rank], rows stride_b apart
  const float* bias;   ///< [d_out] or null
  float* y;            ///< [rows, d_out]
  std::int64_t rows, d_in, d_out, rank, stride_b;
  const std::int64_t* columns;  ///< [rows]: a row's first column of b; null: 0 for every row
};

/// softmax(q K^T · scale) V for one query.
struct OneRowAttention {
  const float* q;      ///< [d]
  const void* keys;    ///< [count, d]
  const void* values;  ///< [count, d]
  Stored stored;       ///< of keys and values
  float* out;          ///< [d]
  float* scratch;      ///< room for count numbers, rounded up to a multiple of 16
  std::int64_t count, d;
  float scale;
};

struct RowKernels {
  const char* name;
  std::int64_t most_rows;  ///< Up to here the product keeps up with the memory.
  void (*product)(const FewRows& call, std::int64_t first_output, std::int64_t last_output);
  void (*attend)(const OneRowAttention& call);
};

// nullptr when not compiled in (another architecture).
const RowKernels* avx512_row_kernels();
const RowKernels* avx2_row_kernels();
const RowKernels* plain_row_kernels();

/// The best that this processor runs; LibTorch's ATEN_CPU_CAPABILITY (default, avx2, avx512) lowers it.
const RowKernels& row_kernels();

}  // namespace moelora::nn::kernels
