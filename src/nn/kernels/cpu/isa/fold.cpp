// Adding a low-rank update to the rows of a weight: a tile is kRows rows by kColumns columns, whose sums stay in
// registers while a panel of A, front to back, is multiplied with the rows of B. The weight is read and written once.

#include "nn/kernels/cpu/cpu_kernels.h"
#include "nn/kernels/cpu/isa/formats.h"
#include "nn/kernels/cpu/isa/operations.h"

namespace moelora::nn::kernels::MOELORA_ISA {
namespace {

constexpr std::int64_t kColumns = 2 * kWidth;
// Sums of kRows rows leave registers for a panel's two and B's one, and for what rounding to bf16 needs. More sums hide
// the latency of a product better: with eight of them AVX2's two units don't reach their peak.
#if defined(__AVX512F__)
constexpr int kAtOnce = 8;
template <typename Format>
constexpr int kRows = 8;
#elif defined(__AVX2__)
constexpr int kAtOnce = 12;
template <typename Format>
constexpr int kRows = 6;
template <>
constexpr int kRows<Bf16> = 4;
#else
constexpr int kAtOnce = 4;
template <typename Format>
constexpr int kRows = 4;
#endif
constexpr int kMeasuredRows = kAtOnce == 8 ? 4 : 2;  // the same, in fp64

MOELORA_INLINE std::int64_t smaller(std::int64_t a, std::int64_t b) { return a < b ? a : b; }

// Into the second-level cache. (An address, not a pointer: beyond the last row there may be nothing, which a prefetch
// does not mind.)
MOELORA_INLINE void prefetch([[maybe_unused]] std::uintptr_t address) {
#if defined(__AVX2__)
  _mm_prefetch(reinterpret_cast<const char*>(address), _MM_HINT_T1);
#endif
}

struct Sums {
  Vector rounding;
  Vector update;
  Vector lost;  // NaN as soon as one rounding is infinite or NaN
};

template <typename Format, int rows, bool measure, bool past_caches>
void fold_tile(typename Format::type* out, const typename Format::type* source, std::int64_t stride, const float* b,
               std::int64_t rank, const float* panel, Sums& sums) {
  Vector sum[rows][2];
#pragma GCC unroll 8
  for (int i = 0; i < rows; ++i) {
    sum[i][0] = Vector{};
    sum[i][1] = Vector{};
    // The rows below are next; their lines lie on other pages, where the hardware does not look ahead.
    const auto below = reinterpret_cast<std::uintptr_t>(source) +
                       static_cast<std::uintptr_t>((i + rows) * stride) * sizeof(typename Format::type);
    prefetch(below);
    if (sizeof(typename Format::type) == sizeof(float)) {
      prefetch(below + kWidth * sizeof(float));
    }
  }
  for (std::int64_t k = 0; k < rank; ++k) {
    const auto left = Fp32::unpack(panel + k * kColumns);
    const auto right = Fp32::unpack(panel + k * kColumns + kWidth);
#pragma GCC unroll 8
    for (int i = 0; i < rows; ++i) {
      const Vector factor = broadcast(b[i * rank + k]);
      sum[i][0] = multiply_add(factor, left, sum[i][0]);
      sum[i][1] = multiply_add(factor, right, sum[i][1]);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < rows; ++i) {
    const Pair before = Format::read_pair(source + i * stride);
    const Pair exact = {before.left + sum[i][0], before.right + sum[i][1]};
    const auto rounded = Format::round_pair(exact);
    if constexpr (measure) {
      const Pair after = Format::values_of(rounded);
      const Vector differences[2] = {distance(after.left, exact.left), distance(after.right, exact.right)};
#pragma GCC unroll 2
      for (int half = 0; half < 2; ++half) {
        sums.rounding = larger(differences[half], sums.rounding);
        sums.lost = multiply_add(differences[half], Vector{}, sums.lost);
        sums.update = larger(distance(sum[i][half], Vector{}), sums.update);
      }
    }
    Format::template write_pair<past_caches>(out + i * stride, rounded);
  }
}

// Columns that fill no whole tile, by way of a tile of zeros.
template <typename Format, int rows, bool measure>
void fold_edge(typename Format::type* out, const typename Format::type* source, std::int64_t stride,
               std::int64_t columns, const float* b, std::int64_t rank, const float* panel, Sums& sums) {
  alignas(64) typename Format::type tile[rows * kColumns] = {};
  for (int i = 0; i < rows; ++i) {
    for (std::int64_t c = 0; c < columns; ++c) {
      tile[i * kColumns + c] = source[i * stride + c];
    }
  }
  fold_tile<Format, rows, measure, false>(tile, tile, kColumns, b, rank, panel, sums);
  for (int i = 0; i < rows; ++i) {
    for (std::int64_t c = 0; c < columns; ++c) {
      out[i * stride + c] = tile[i * kColumns + c];
    }
  }
}

template <typename Format, int rows, bool measure, bool past_caches>
void fold_some_rows(const FoldRows& call, std::int64_t row, std::int64_t begin, std::int64_t end, Sums& sums) {
  const std::int64_t stride = call.columns;
  auto* out = static_cast<typename Format::type*>(call.out) + row * stride;
  const auto* source = static_cast<const typename Format::type*>(call.source) + row * stride;
  const float* b = call.b + row * call.rank;
  std::int64_t column = begin;
  for (; column + kColumns <= end; column += kColumns) {
    fold_tile<Format, rows, measure, past_caches>(out + column, source + column, stride, b, call.rank,
                                                  call.panels + column * call.rank, sums);
  }
  if (column < end) {
    fold_edge<Format, rows, measure>(out + column, source + column, stride, end - column, b, call.rank,
                                     call.panels + column * call.rank, sums);
  }
}

// The largest of the elements of a register, and NaN if one of `lost` is.
template <typename Register, typename Element>
double extreme_of(const Register& values, const Register& lost, Element) {
  double largest = 0.0;
  for (unsigned i = 0; i < sizeof(Register) / sizeof(Element); ++i) {
    const Element value = values[i];
    largest = largest < value ? static_cast<double>(value) : largest;
    if (lost[i] != lost[i]) {
      return __builtin_nan("");
    }
  }
  return largest;
}

// Rows of one thread, in blocks of columns whose part of A stays in the second-level cache.
template <typename Format, bool measure, bool past_caches>
FoldExtremes fold_with(const FoldRows& call, std::int64_t first, std::int64_t last) {
  constexpr std::int64_t kPanelBytes = 512 << 10;
  const std::int64_t panels = kPanelBytes / (kColumns * call.rank * 4);
  const std::int64_t width = (panels < 1 ? 1 : panels) * kColumns;
  Sums sums{Vector{}, Vector{}, Vector{}};
  for (std::int64_t begin = 0; begin < call.columns; begin += width) {
    const std::int64_t end = smaller(begin + width, call.columns);
    std::int64_t row = first;
    for (; row + kRows<Format> <= last; row += kRows<Format>) {
      fold_some_rows<Format, kRows<Format>, measure, past_caches>(call, row, begin, end, sums);
    }
    for (; row + 2 <= last; row += 2) {
      fold_some_rows<Format, 2, measure, past_caches>(call, row, begin, end, sums);
    }
    for (; row < last; ++row) {
      fold_some_rows<Format, 1, measure, past_caches>(call, row, begin, end, sums);
    }
  }
  if (past_caches) {
    finish_streams();
  }
  return {extreme_of(sums.rounding, sums.lost, 0.0f), extreme_of(sums.update, Vector{}, 0.0f)};
}

struct WideSums {
  WideVector rounding;
  WideVector update;
  WideVector lost;
};

// What fp32 rows became, against the sums in fp64. `source` holds the rows as they were.
template <int rows>
void measure_rows(const float* out, const float* source, std::int64_t columns, const float* b, std::int64_t rank,
                  const float* panels, WideSums& sums) {
  constexpr int kWide = kWidth / 2;
  typedef float Narrow __attribute__((vector_size(2 * kWidth)));
  const WideVector zero = {};
  for (std::int64_t column = 0; column < columns; column += kColumns) {
    const float* panel = panels + column * rank;
    WideVector sum[rows][4] = {};
    for (std::int64_t k = 0; k < rank; ++k) {
      WideVector a[4];
#pragma GCC unroll 4
      for (int v = 0; v < 4; ++v) {
        a[v] = __builtin_convertvector(load_unaligned<Narrow>(panel + k * kColumns + v * kWide), WideVector);
      }
#pragma GCC unroll 4
      for (int i = 0; i < rows; ++i) {
        const WideVector factor = broadcast(static_cast<double>(b[i * rank + k]));
#pragma GCC unroll 4
        for (int v = 0; v < 4; ++v) {
          sum[i][v] = multiply_add(factor, a[v], sum[i][v]);
        }
      }
    }
    const std::int64_t count = smaller(kColumns, columns - column);
#pragma GCC unroll 4
    for (int i = 0; i < rows; ++i) {
      const float* before = source + i * columns + column;
      const float* after = out + i * columns + column;
      float padded[2][kColumns] = {};
      if (count < kColumns) {
        for (std::int64_t c = 0; c < count; ++c) {
          padded[0][c] = before[c];
          padded[1][c] = after[c];
        }
        before = padded[0];
        after = padded[1];
      }
#pragma GCC unroll 4
      for (int v = 0; v < 4; ++v) {
        const auto was = __builtin_convertvector(load_unaligned<Narrow>(before + v * kWide), WideVector);
        const auto is = __builtin_convertvector(load_unaligned<Narrow>(after + v * kWide), WideVector);
        WideVector difference = is - (was + sum[i][v]);
        difference = difference < zero ? -difference : difference;
        sums.rounding = difference > sums.rounding ? difference : sums.rounding;
        sums.lost = multiply_add(difference, zero, sums.lost);
        const WideVector size = sum[i][v] < zero ? -sum[i][v] : sum[i][v];
        sums.update = size > sums.update ? size : sums.update;
      }
    }
  }
}

// A few rows at a time: their source is kept where the fold overwrites it.
FoldExtremes fold_and_measure_fp32(const FoldRows& call, std::int64_t first, std::int64_t last) {
  const std::int64_t columns = call.columns;
  const auto* source = static_cast<const float*>(call.source);
  const auto* out = static_cast<const float*>(call.out);
  WideSums sums{};
  for (std::int64_t row = first; row < last; row += kAtOnce) {
    const std::int64_t end = smaller(row + kAtOnce, last);
    __builtin_memcpy(call.kept, source + row * columns, static_cast<std::size_t>((end - row) * columns) * 4);
    fold_with<Fp32, false, false>(call, row, end);
    std::int64_t i = row;
    for (; i + kMeasuredRows <= end; i += kMeasuredRows) {
      measure_rows<kMeasuredRows>(out + i * columns, call.kept + (i - row) * columns, columns, call.b + i * call.rank,
                                  call.rank, call.panels, sums);
    }
    for (; i < end; ++i) {
      measure_rows<1>(out + i * columns, call.kept + (i - row) * columns, columns, call.b + i * call.rank, call.rank,
                      call.panels, sums);
    }
  }
  return {extreme_of(sums.rounding, sums.lost, 0.0), extreme_of(sums.update, WideVector{}, 0.0)};
}

template <typename Format>
FoldExtremes fold_stored(const FoldRows& call, std::int64_t first, std::int64_t last) {
  if (call.measure) {
    return call.streams ? fold_with<Format, true, true>(call, first, last)
                        : fold_with<Format, true, false>(call, first, last);
  }
  return call.streams ? fold_with<Format, false, true>(call, first, last)
                      : fold_with<Format, false, false>(call, first, last);
}

FoldExtremes fold_rows(const FoldRows& call, std::int64_t first, std::int64_t last) {
  switch (call.stored) {
    case Stored::fp16:
      return fold_stored<Fp16>(call, first, last);
    case Stored::bf16:
      return fold_stored<Bf16>(call, first, last);
    case Stored::fp32:
      break;
  }
  if (call.measure) {
    return fold_and_measure_fp32(call, first, last);
  }
  return call.streams ? fold_with<Fp32, false, true>(call, first, last)
                      : fold_with<Fp32, false, false>(call, first, last);
}

}  // namespace

void enter_fold(CpuKernels& table) {
  table.fold_columns = kColumns;
  table.fold_at_once = kAtOnce;
  table.fold_rows = fold_rows;
}

}  // namespace moelora::nn::kernels::MOELORA_ISA
