#include "nn/kernels/cpu/few_rows.h"

#include "nn/kernels/cpu/cpu_kernels.h"
#include "nn/kernels/cpu/isa/dot_products.h"
#include "nn/kernels/cpu/isa/operations.h"

namespace moelora::nn::kernels::MOELORA_ISA {
namespace {

#if defined(__AVX512F__)
constexpr int kMostRows = 16;     // Up to here the product keeps up with the memory.
constexpr int kMostTogether = 8;  // rows of x that share one pass over the registers
// Streams through the weight. With eight rows 3 x 8 sums, 3 weights, 1 x: 28 registers; a single one has room for the
// four that memory is read fastest with.
constexpr int weights_together(int rows) { return rows == 1 ? 4 : 3; }
#elif defined(__AVX2__)
constexpr int kMostRows = 8;
constexpr int kMostTogether = 4;
constexpr int weights_together(int rows) { return rows == 1 ? 4 : rows == 2 ? 2 : 1; }
#else
constexpr int kMostRows = 2;
constexpr int kMostTogether = 2;
constexpr int weights_together(int) { return 1; }
#endif

// The low-rank part where each row has its own columns of b. The loop works on a copy, so that the sums themselves can
// stay in registers.
template <int Weights, int Rows>
MOELORA_INLINE void add_own_products(Group (&sum)[Weights][Rows], const FewRows& call, std::int64_t row,
                                     std::int64_t first, std::int64_t stride) {
  Group own[Rows][Weights][1];
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 8
    for (int j = 0; j < Weights; ++j) {
      own[r][j][0] = sum[j][r];
    }
  }
#pragma GCC unroll 1
  for (int r = 0; r < Rows; ++r) {
    add_products<Fp32, Weights, 1>(own[r], call.v + (row + r) * call.rank,
                                   call.b + first * call.stride_b + call.columns[row + r], stride * call.stride_b,
                                   call.rank);
  }
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r) {
#pragma GCC unroll 8
    for (int j = 0; j < Weights; ++j) {
      sum[j][r] = own[r][j][0];
    }
  }
}

// Outputs first, first + stride, … (Weights of them) of rows row, row + 1, … (Rows of them).
template <typename Format, int Weights, int Rows>
void tile(const FewRows& call, std::int64_t row, std::int64_t first, std::int64_t stride) {
  Group sum[Weights][Rows];
#pragma GCC unroll 8
  for (int j = 0; j < Weights; ++j) {
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) {
      sum[j][r] = zero_group();
    }
  }
  // The low-rank part comes last and its few cache lines are fetched now: a miss at its place would stall the stream,
  // and fetched further ahead they would be gone again.
  for (int j = 0; j < Weights; ++j) {
    for (std::int64_t c = 0; c < call.rank && call.columns == nullptr; c += kGroup) {
      __builtin_prefetch(call.b + (first + j * stride) * call.stride_b + c);
    }
  }
  const auto* weight = static_cast<const typename Format::type*>(call.weight) + first * call.d_in;
  add_products<Format, Weights, Rows>(sum, call.x + row * call.d_in, weight, stride * call.d_in, call.d_in);
  if (call.columns != nullptr) {
    add_own_products(sum, call, row, first, stride);
  } else if (call.rank > 0) {
    add_products<Fp32, Weights, Rows>(sum, call.v + row * call.rank, call.b + first * call.stride_b,
                                      stride * call.stride_b, call.rank);
  }
#pragma GCC unroll 8
  for (int j = 0; j < Weights; ++j) {
    const std::int64_t output = first + j * stride;
    const float bias = call.bias != nullptr ? call.bias[output] : 0.0f;
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) {
      call.y[(row + r) * call.d_out + output] = total(sum[j][r]) + bias;
    }
  }
}

// `count` rows from `row` on, count <= Rows.
template <typename Format, int Weights, int Rows>
void some_rows(const FewRows& call, std::int64_t row, std::int64_t count, std::int64_t first, std::int64_t stride) {
  if (count == Rows) {
    tile<Format, Weights, Rows>(call, row, first, stride);
  } else if constexpr (Rows > 1) {
    some_rows<Format, Weights, Rows - 1>(call, row, count, first, stride);
  }
}

// The weight's rows are walked in `Weights` streams that lie apart: each is a straight line through memory. Rows of x
// beyond kMostTogether read the weight's rows again, then from a cache.
template <typename Format, int Weights>
void outputs(const FewRows& call, std::int64_t first, std::int64_t last) {
  const std::int64_t each = (last - first) / Weights;
  for (std::int64_t i = 0; i < each; ++i) {
    for (std::int64_t row = 0; row < call.rows; row += kMostTogether) {
      some_rows<Format, Weights, kMostTogether>(
          call, row, call.rows - row < kMostTogether ? call.rows - row : kMostTogether, first + i, each);
    }
  }
  if constexpr (Weights > 1) {
    outputs<Format, 1>(call, first + each * Weights, last);
  }
}

template <typename Format>
void product_with(const FewRows& call, std::int64_t first, std::int64_t last) {
  if (call.rows == 1) {
    outputs<Format, weights_together(1)>(call, first, last);
  } else if (call.rows == 2) {
    outputs<Format, weights_together(2)>(call, first, last);
  } else {
    outputs<Format, weights_together(3)>(call, first, last);
  }
}

void product(const FewRows& call, std::int64_t first, std::int64_t last) {
  switch (call.stored) {
    case Stored::fp32:
      return product_with<Fp32>(call, first, last);
    case Stored::fp16:
      return product_with<Fp16>(call, first, last);
    case Stored::bf16:
      return product_with<Bf16>(call, first, last);
  }
}

}  // namespace

void enter_few_rows(CpuKernels& table) {
  table.most_rows = kMostRows;
  table.few_rows = product;
}

}  // namespace moelora::nn::kernels::MOELORA_ISA
